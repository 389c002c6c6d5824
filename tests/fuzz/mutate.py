"""Mutations: inputs that are nearly valid, made from valid inputs.

A mutation flips, sets, cuts, repeats, moves or splices bytes, changes a possible length, or inserts a word of the
format's dictionary. Inputs that reach a new place are kept and mutated further.

>>> mutator = Mutator(Random(1), [b'["act","r"]'], (b"-0",))
>>> mutator.next() == mutator.next()
False
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

MAX_BYTES = 4096
MAX_KEPT = 2000
_EDGES = bytes([0, 1, 2, 4, 6, 0x7F, 0x80, 0x81, 0xC0, 0xFF]) + b' "[]{},:=\\/-09AZaz'


class Mutator:
    """Makes inputs from ``seeds`` and ``words``. The same randomness gives the same inputs."""

    def __init__(self, random: Random, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
        self._seeds = list(seeds)
        self._kept: list[bytes] = []
        self._words = [*words, b"\x00", b"\xff\xff\xff\xff"]
        self._random = random.random
        self._changes: list[Callable[[bytes], bytes]] = [
            self._flip, self._any, self._edge, self._bump, self._cut, self._cut_off,
            self._repeat, self._move, self._word, self._word, self._splice,
        ]  # fmt: skip

    def next(self) -> bytes:
        """Return another input."""
        pool = self._kept if self._kept and self._random() < 0.5 else self._seeds
        data = pool[self._at(len(pool))]
        while True:
            data = self._changes[self._at(len(self._changes))](data)
            if self._random() < 0.4:
                return data[:MAX_BYTES]

    def keep(self, data: bytes) -> None:
        """Keep ``data`` for later mutations, because it reached a new place."""
        if len(self._kept) < MAX_KEPT:
            self._kept.append(data)

    def _at(self, size: int) -> int:
        return int(self._random() * size)

    def _range(self, data: bytes, most: int = 32) -> tuple[int, int]:
        start = self._at(len(data) + 1)
        return start, start + self._at(most)

    def _flip(self, data: bytes) -> bytes:
        at = self._at(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self._at(8)]) + data[at + 1 :] if data else b"\x01"

    def _any(self, data: bytes) -> bytes:
        at = self._at(len(data) + 1)
        return data[:at] + bytes([self._at(256)]) + data[at + 1 :]

    def _edge(self, data: bytes) -> bytes:
        at = self._at(len(data) + 1)
        return data[:at] + _EDGES[(edge := self._at(len(_EDGES))) : edge + 1] + data[at + self._at(2) :]

    def _bump(self, data: bytes) -> bytes:
        at = self._at(len(data))
        return data[:at] + bytes([data[at] + self._at(9) - 4 & 255]) + data[at + 1 :] if data else b"\x04"

    def _cut(self, data: bytes) -> bytes:
        start, end = self._range(data)
        return data[:start] + data[end:]

    def _cut_off(self, data: bytes) -> bytes:
        return data[: self._at(len(data) + 1)]

    def _repeat(self, data: bytes) -> bytes:
        start, end = self._range(data)
        return data[:start] + data[start:end] * (1 + self._at(4)) + data[start:]

    def _move(self, data: bytes) -> bytes:
        start, end = self._range(data)
        rest = data[:start] + data[end:]
        at = self._at(len(rest) + 1)
        return rest[:at] + data[start:end] + rest[at:]

    def _word(self, data: bytes) -> bytes:
        start, end = self._range(data, 8)
        if self._random() < 0.5:
            end = start
        return data[:start] + self._words[self._at(len(self._words))] + data[end:]

    def _splice(self, data: bytes) -> bytes:
        other = self._seeds[self._at(len(self._seeds))]
        return data[: self._at(len(data) + 1)] + other[self._at(len(other) + 1) :]
