"""The loop: mutate, read, and see how it ended.

Guided by where inputs end. An error's traceback tells for nothing along which lines the reader came to refuse it; an
input that is refused at a place where none was before, or is the first to be accepted, is kept and mutated further.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import FrameType

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target

BATCH = 200
MAX_BATCH_S = 20
MAX_MEMORY_BYTES = 4 << 30


class TookTooLong(Exception):
    """A batch of small inputs that takes this long holds one that costs more than linear time."""


Places = set[tuple[object, ...]]


@dataclass(frozen=True)
class Finding:
    """An input that ended in a foreign exception, and that exception as text."""

    target: str
    data: bytes
    error: str


@dataclass(frozen=True)
class Outcome:
    """How many inputs were read, in how many places they ended, and what was found, if anything."""

    inputs: int
    places: int
    finding: Finding | None = None


def fuzz(target: Target, seconds: float, seed: int) -> Outcome:
    """Read mutated inputs for so many seconds, or up to the first foreign exception."""
    mutator = Mutator(Random(f"{target.name} {seed}"), target.corpus(), target.words)
    seen: Places = set()
    inputs = 0
    end = time.monotonic() + seconds
    with _bounded():
        for data in target.corpus():
            finding = attempt(target, data, seen)
            if finding is not None:
                return Outcome(inputs + 1, len(seen), finding)
        while time.monotonic() < end:
            signal.alarm(MAX_BATCH_S)
            for _ in range(BATCH):
                data = mutator.next()
                inputs += 1
                places = len(seen)
                finding = attempt(target, data, seen)
                if finding is not None:
                    return Outcome(inputs, len(seen), finding)
                if len(seen) > places:
                    mutator.keep(data)
    return Outcome(inputs, len(seen))


def attempt(target: Target, data: bytes, seen: Places) -> Finding | None:
    """Read one input; add to ``seen`` where it ended."""
    try:
        seen.add((target.read(data),))
    except target.refusals as error:
        seen.add(_place(error))
    except Exception as error:  # noqa: BLE001 - whatever it is: that it got here is the finding
        return Finding(target.name, data, f"{type(error).__name__}: {error}")
    return None


def _place(error: BaseException) -> tuple[object, ...]:
    """The lines along which an error was raised; and what the parser underneath began to say, where there is one."""
    lines: list[object] = []
    step = error.__traceback__
    while step is not None:
        lines.append(step.tb_lineno)
        step = step.tb_next
    if error.__context__ is not None:
        lines.append(str(error.__context__)[:14])  # no further: behind it stands what was seen
    return tuple(lines)


@contextmanager
def _bounded() -> Iterator[None]:
    """Make a hang and a huge allocation exceptions, too."""

    def alarm(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLong(f"{BATCH} inputs took more than {MAX_BATCH_S} s")

    before = signal.signal(signal.SIGALRM, alarm)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, hard))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
