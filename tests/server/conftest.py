"""A real server in the test's event loop, on a free port of 127.0.0.1, with a stand-in for the authority."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, get_args

import httpx
import msgspec
import pytest

from tkdb import api, errors, logs
from tkdb.attestation import PROXIES
from tkdb.bootstrap import open_authority
from tkdb.channel.client import Initiator
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.dev.routes import routes as dev_routes
from tkdb.journal.seal import SealKey, SealKeys
from tkdb.ports import Caller
from tkdb.server.limits import Limits
from tkdb.server.run import Stop, serve
from tkdb.settings import Address, Settings
from tkdb.signers import Permission, Signer, Signers

NAME = "tkdb.example"
KID = bytes(range(16))


class StandIn:
    """A service that answers calls from memory. A test sets the answers and errors that it needs."""

    name = NAME
    journal = bytes(16)

    def __init__(self) -> None:
        self.position = 7
        self.calls: list[tuple[api.Call[Any], Caller]] = []
        self.ready_error: errors.TkdbError | None = None
        self.replication_error: errors.TkdbError | None = None
        self.raises: BaseException | None = None
        self.released = asyncio.Event()
        self.released.set()
        self.called = asyncio.Event()
        self.drained = asyncio.Event()
        self.finished = 0
        self.closed = False
        self.primary: str | None = None
        self.moved = asyncio.Event()
        self.clock_is_wrong = False

    def check_clock(self) -> None:
        if self.clock_is_wrong:
            raise errors.Unavailable("this machine's clock is 3600 s from the object store's", hint="correct it")

    def replay_to(self, path: str) -> str | None:
        return self.primary if path in api.WRITING_PATHS else None

    async def come_to(self, position: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while self.position < position:
                    await self.moved.wait()
        if self.position < position:
            raise errors.Unavailable(f"position {position} hasn't arrived", retry_after_ms=250)

    async def answer(self, call: Any, caller: Caller) -> msgspec.Struct:
        self.calls.append((call, caller))
        self.called.set()
        if self.raises is not None:
            raise self.raises
        await self.released.wait()
        try:
            return await self._result(call)
        finally:
            self.finished += 1

    async def _result(self, call: Any) -> msgspec.Struct:
        match call:
            case api.Verify():
                return api.Verified([api.Valid("acme") for _ in call.bundles])
            case api.Status():
                return api.StatusReport(NAME, "0", "primary", "local", "local", 1, 0, 0)
            case api.Mint():
                return api.Minted("tkdb_minted", 1)
            case api.CreateOrganization():
                key = api.Key(KID, 1, "signing")
                return api.Organization(call.name, 3600, 1, [key])
            case api.Revocations():
                if call.wait_ms:
                    await asyncio.wait({asyncio.ensure_future(self.drained.wait())}, timeout=call.wait_ms / 1000)
                return api.Feed(self.position, [], more=False)
            case api.Revoke() | api.RevokeOwn():
                return api.Revoked(already=False)
            case _:
                raise errors.NotFound("the stand-in doesn't know this call")

    def age_ms(self) -> int:
        return 3

    def ready(self) -> None:
        if self.ready_error is not None:
            raise self.ready_error

    def replicating(self) -> None:
        if self.replication_error is not None:
            raise self.replication_error

    async def ended(self) -> None:
        await asyncio.get_running_loop().create_future()

    def drain(self) -> None:
        self.drained.set()

    async def close(self) -> None:
        self.closed = True


@dataclass
class Running:
    """A running server, and clients for a test."""

    address: Address
    service: StandIn
    settings: Settings
    stop: Stop
    http: httpx.AsyncClient
    initiator: Initiator
    anonymous: Initiator

    async def post(self, path: str, call: api.Call[Any], **options: Any) -> httpx.Response:
        """Seal and post the call. The response's extensions keep the key that opens the answer."""
        initiator = self.initiator if path in api.SIGNED_PATHS else self.anonymous
        options = {"request_id": os.urandom(16), "now_ms": time.time_ns() // 1_000_000, **options}
        sealed = initiator.seal(path, api.encode(call), **options)
        response = await self.http.post(path, content=sealed.message, headers=sealed.headers)
        response.extensions["sealed"] = sealed
        return response

    async def ask(self, path: str, call: api.Call[Any], **options: Any) -> Any:
        """Return the result of ``call``, or raise the authority's error."""
        return api.decode_result(call, open_answer(await self.post(path, call, **options)))


def open_answer(response: httpx.Response) -> api.Answer:
    """Return the answer in a response."""
    assert response.status_code == 200, response.text
    return api.decode_answer(response.extensions["sealed"].open(response.content))


Start = Callable[..., Any]


@pytest.fixture(name="open_answer")
def _open_answer() -> Callable[[httpx.Response], api.Answer]:
    return open_answer


@pytest.fixture
def signer() -> SignerSecret:
    return SignerSecret.generate(os.urandom)


@pytest.fixture
def settings(signer: SignerSecret, tmp_path: Path) -> Settings:
    return Settings(
        name=NAME,
        authority_keys=(AuthoritySecret.generate(os.urandom),),
        seal_keys=SealKeys([SealKey(bytes(32))]),
        signers=Signers([Signer("api", signer.public, frozenset({"*"}), frozenset(get_args(Permission)))]),
        database=tmp_path / "tkdb.db",
        bind=Address.parse("127.0.0.1:0"),
        drain_ms=0,
    )


@pytest.fixture
def start(settings: Settings, signer: SignerSecret) -> Start:
    """Return a context manager that runs a server until its block ends."""

    @asynccontextmanager
    async def running(
        *,
        limits: Limits | None = None,
        dev: bool = False,
        real: bool = False,
        proxies: IPv4Network = PROXIES,
        **changes: Any,
    ) -> AsyncIterator[Running]:
        changed = replace(settings, **changes)
        service, stop = StandIn(), Stop()
        address: asyncio.Future[Address] = asyncio.get_running_loop().create_future()

        async def open_stand_in(_: Settings) -> StandIn:
            return service

        serving = asyncio.create_task(
            serve(
                changed,
                open_service=open_authority if real else open_stand_in,
                ready=address.set_result,
                **({"extra_routes": dev_routes} if dev else {}),
                stop=stop,
                limits=limits,
                proxies=proxies,
            )
        )
        await asyncio.wait({serving, address}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        identity = AuthorityIdentity(NAME, (changed.authority_keys[0].public,))
        async with httpx.AsyncClient(base_url=f"http://{address.result()}", trust_env=False, timeout=60) as http:
            yield Running(
                address=address.result(),
                service=service,
                settings=changed,
                stop=stop,
                http=http,
                initiator=Initiator(identity, signer=signer, random=os.urandom),
                anonymous=Initiator(identity, signer=None, random=os.urandom),
            )
        stop.ask()
        stop.ask()
        await serving

    return running


@pytest.fixture
def run() -> Callable[[Awaitable[None]], None]:
    """Return a function that runs a test's coroutine for at most 30 s."""

    def run(test: Awaitable[None]) -> None:
        asyncio.run(asyncio.wait_for(test, 30))  # type: ignore[arg-type]  # every test is a coroutine

    return run


@pytest.fixture
def log() -> Any:
    """Yield the text that the server logs, from level debug up."""
    stream = io.StringIO()
    logs.configure("debug", stream)
    logging.getLogger("asyncio").setLevel("INFO")
    yield stream
    logs.configure("error", io.StringIO())
