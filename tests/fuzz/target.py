"""A target: a reader of untrusted bytes, the errors that it may raise, and inputs to start with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """One reader to fuzz.

    Attributes:
        name: its name on the command line and in file names.
        read: passes bytes to the reader, and asserts the properties of every accepted input. Different return values
            stand for different ways to accept an input.
        refusals: the classes of ``tkdb.errors`` that the reader may raise. Any other exception is a finding.
        seeds: inputs to start with, some of them valid.
        words: the dictionary of the format.
    """

    name: str
    read: Callable[[bytes], str | None]
    refusals: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()

    def corpus(self) -> list[bytes]:
        """Return the seeds, and the inputs of earlier findings."""
        return [*self.seeds, *(path.read_bytes() for path in sorted((CORPUS / self.name).glob("*")))]
