"""A target: a reader of untrusted bytes, what it may raise, and inputs that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        name: what it is called on the command line and in file names.
        read: hands bytes to the reader, and asserts what must hold of all that it accepts. What it returns tells
            ways of accepting apart.
        refusals: the errors of the tree that it may raise; any other exception is a finding.
        seeds: inputs to begin with, some of them valid.
        words: the dictionary of the format.
    """

    name: str
    read: Callable[[bytes], str | None]
    refusals: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()

    def corpus(self) -> list[bytes]:
        """Return the seeds, and what was once found."""
        return [*self.seeds, *(path.read_bytes() for path in sorted((CORPUS / self.name).glob("*")))]
