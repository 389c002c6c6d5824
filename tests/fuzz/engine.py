"""The fuzzing loop: mutate an input, read it, and record where the reader ended.

The places where inputs end guide the loop. The traceback of a refusal contains the lines that led to it, and costs
nothing. An input is kept and mutated further if it is refused at a new place, or is the first that is accepted.
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
    """A batch of small inputs took too long, so at least one of them costs more than linear time."""


Places = set[tuple[object, ...]]


@dataclass(frozen=True)
class Finding:
    """An input that caused an unexpected exception, and that exception as text."""

    target: str
    data: bytes
    error: str


@dataclass(frozen=True)
class Outcome:
    """The number of inputs, the number of places where they ended, and the finding, if there is one."""

    inputs: int
    places: int
    finding: Finding | None = None


def fuzz(target: Target, seconds: float, seed: int) -> Outcome:
    """Read mutated inputs for ``seconds``, or up to the first unexpected exception."""
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
    """Read one input, and add the place where it ended to ``seen``."""
    try:
        seen.add((target.read(data),))
    except target.refusals as error:
        seen.add(_place(error))
    except Exception as error:  # noqa: BLE001 - any exception that gets here is a finding
        return Finding(target.name, data, f"{type(error).__name__}: {error}")
    return None


def _place(error: BaseException) -> tuple[object, ...]:
    """Return the lines of an error's traceback, and the start of the message of the parser below, if there is one."""
    lines: list[object] = []
    step = error.__traceback__
    while step is not None:
        lines.append(step.tb_lineno)
        step = step.tb_next
    if error.__context__ is not None:
        lines.append(str(error.__context__)[:14])  # the rest of the message quotes the input
    return tuple(lines)


@contextmanager
def _bounded() -> Iterator[None]:
    """Turn a hang and a huge allocation into exceptions."""

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
