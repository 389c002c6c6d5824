"""Fixtures: a fake authority, both kinds of client with one interface, and a cache that tests drive step by step."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.cache.model.single import Single
from tests.client.fake_authority import NAME, FakeAuthority
from tkdb.macaroon.caveats import Act, AnyCaveat, Exp
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb_client import AsyncClient, Client


def zero_jitter(size: int) -> bytes:
    """Return random bytes for keys and ids, and zeros for the jitter, so that no test waits."""
    return bytes(4) if size == 4 else os.urandom(size)


class Caller:
    """One client, blocking or awaited, with one interface."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self._runner = asyncio.Runner() if kind == "awaited" else None
        given = {"timeout_ms": 3_000, "attempt_timeout_ms": 1_000, "random": zero_jitter, "cache_bytes": 0} | settings
        self.client: Any = (AsyncClient if self._runner else Client)(**given)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self.client, method)(*args, **kwargs)
        return self._runner.run(result) if self._runner else result

    def list(self, method: str) -> list[Any]:
        iterator = getattr(self.client, method)()
        if self._runner is None:
            return list(iterator)

        async def collect() -> list[Any]:
            return [each async for each in iterator]

        return self._runner.run(collect())

    def close(self) -> None:
        self.call("close")
        if self._runner:
            self._runner.close()


@pytest.fixture
def authority() -> Iterator[FakeAuthority]:
    with FakeAuthority() as running:
        yield running


@pytest.fixture(params=["blocking", "awaited"])
def connect(request: pytest.FixtureRequest, authority: FakeAuthority) -> Iterator[Callable[..., Caller]]:
    """Make clients of either kind. Default: for the fake authority, with its signer."""
    made: list[Caller] = []

    def make(**settings: Any) -> Caller:
        given = {"url": authority.url, "authority": authority.identity, "signer": authority.signer} | settings
        made.append(Caller(request.param, **given))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


@pytest.fixture
def client(connect: Callable[..., Caller]) -> Caller:
    return connect()


@pytest.fixture
def token() -> Macaroon:
    return minted(Exp(2_000_000_000), Act("rw"))


def minted(*caveats: AnyCaveat) -> Macaroon:
    return mint(NAME, b"r" * 32, kid=b"k" * 16, time_ms=1_700_000_000_000, random=os.urandom(10), caveats=caveats)


@pytest.fixture
def mint_one() -> Callable[..., Macaroon]:
    return minted


@pytest.fixture
def single() -> Single:
    return Single()
