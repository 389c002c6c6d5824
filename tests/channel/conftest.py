"""Fixtures for the channel: one authority, one signer and one client, with the same keys in every run."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

import pytest

from tkdb.channel.client import Initiator, Sealed
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.channel.server import Responder

NAME = "tkdb.example"
NOW_MS = 1_700_000_000_000


class DeterministicBytes:
    """Bytes that look random, and are the same in every run."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return sha256(self._seed + self._count.to_bytes(8, "big")).digest()[:size]


@dataclass
class Scene:
    """Both ends of the channel."""

    random: DeterministicBytes = field(default_factory=lambda: DeterministicBytes(b"scene"))

    def __post_init__(self) -> None:
        self.authority = AuthoritySecret.generate(self.random)
        self.signer = SignerSecret.generate(self.random)
        self.identity = AuthorityIdentity(NAME, (self.authority.public,))
        self.initiator = Initiator(self.identity, signer=self.signer, random=self.random)
        self.responder = self.responder_with(NAME)

    def responder_with(self, name: str) -> Responder:
        """Return a responder with the same keys and this name."""
        return Responder(name, [self.authority], [self.signer.public], random=self.random)

    def seal(self, path: str, body: bytes = b"body") -> Sealed:
        return self.initiator.seal(path, body, request_id=bytes(16), now_ms=NOW_MS)


@pytest.fixture
def scene() -> Scene:
    return Scene()
