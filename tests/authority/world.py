"""An authority under the control of a test, with settable clocks, seeded randomness and known signers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

from tkdb import api
from tkdb.authority.clock import Clock
from tkdb.authority.methods import Profile
from tkdb.authority.service import Authority
from tkdb.channel.envelope import prologue, signed_bytes
from tkdb.channel.keys import SignerSecret
from tkdb.database.database import MEMORY
from tkdb.journal.seal import SealKey, SealKeys
from tkdb.macaroon.caveats import AnyCaveat, encode
from tkdb.macaroon.token import Macaroon
from tkdb.ports import Caller
from tkdb.server.methods import BY_NAME, name_of
from tkdb.signers import Permission, Signer

NAME = "tkdb.example"
START_MS = 1_760_000_000_000
SKEW_MS = 20_000
HOUR_S, DAY_S = 3_600, 86_400

OLD_SEAL_KEY, NEW_SEAL_KEY = SealKey(b"\x01" * 32), SealKey(b"\x02" * 32)
OLD_RING, BOTH_RING, NEW_RING = (
    SealKeys([OLD_SEAL_KEY]),
    SealKeys([NEW_SEAL_KEY, OLD_SEAL_KEY]),
    SealKeys([NEW_SEAL_KEY]),
)

ALL_PERMISSIONS: frozenset[Permission] = frozenset(get_args(Permission))


def _signer(name: str, organizations: str, *permissions: Permission) -> tuple[Signer, SignerSecret]:
    secret = SignerSecret.generate(random.Random(name).randbytes)
    return Signer(name, secret.public, frozenset({organizations}), frozenset(permissions) or ALL_PERMISSIONS), secret


SIGNERS = {
    signer.name: (signer, secret)
    for signer, secret in (
        _signer("root", "*"),
        _signer("acme", "acme"),
        _signer("evil", "evil"),
        _signer("minter", "*", "mint"),
        _signer("revoker", "*", "revoke"),
        _signer("administrator", "*", "organizations"),
        _signer("resealer", "*", "reseal"),
        _signer("restorer", "*", "restore"),
    )
}


class World:
    """One authority, its clocks and its randomness."""

    def __init__(self, path: Path | str = MEMORY, *, seed: int = 0, **options: Any) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.wall_ms = START_MS
        self.monotonic_ms = 0
        self.options: dict[str, Any] = {"name": NAME, "seal_keys": OLD_RING, **options}
        self.authority: Any = None

    async def open(self, **options: Any) -> None:
        self.options |= options
        self.authority = await Authority.open(
            self.path,
            Profile(**self.options),
            clock=Clock(lambda: self.wall_ms, lambda: self.monotonic_ms),
            random=self.random.randbytes,
        )
        await asyncio.sleep(0)

    async def restart(self, **options: Any) -> None:
        await self.authority.close()
        await self.open(**options)

    def advance(self, ms: int) -> None:
        """Let time pass on both clocks."""
        self.wall_ms += ms
        self.monotonic_ms += ms

    def step_clock(self, ms: int) -> None:
        """Change the wall clock, although no time passes."""
        self.wall_ms += ms

    def caller(self, call: Any, signer: str | None, request_id: bytes | None = None, path: str | None = None) -> Caller:
        """Return a caller whose signature is valid, as the channel passes it on."""
        path = path or BY_NAME[name_of(call)][0]
        request_id = self.random.randbytes(16) if request_id is None else request_id
        body = api.encode(call)
        if signer is None:
            return Caller(None, path, request_id, self.wall_ms, b"", body)
        known, secret = SIGNERS[signer]
        signature = secret.sign(signed_bytes(prologue(path, NAME), self.wall_ms, request_id, body))
        return Caller(known, path, request_id, self.wall_ms, signature, body)

    async def ask(self, call: Any, signer: str | None = "root", request_id: bytes | None = None) -> Any:
        return await self.authority.answer(call, self.caller(call, signer, request_id))

    async def create(self, name: str = "acme", max_lifetime_s: int | None = None) -> bytes:
        """Create an organization, and return the kid of its first key."""
        return (await self.ask(api.CreateOrganization(name, max_lifetime_s))).keys[0].kid

    async def mint(self, organization: str = "acme", *caveats: AnyCaveat, expires_in_s: int | None = None) -> Macaroon:
        call = api.Mint(organization, [encode(caveat) for caveat in caveats], expires_in_s)
        return Macaroon.parse((await self.ask(call)).token)

    async def revoke(self, *targets: api.Target, signer: str = "root") -> bool:
        """Return True if all targets were revoked already."""
        return (await self.ask(api.Revoke(list(targets)), signer)).already

    async def revoke_own(self, token: Macaroon) -> bool:
        """Revoke by possession. Return True if the token was revoked already."""
        return (await self.ask(api.RevokeOwn(token.text), None)).already

    async def outcome(self, token: Macaroon | str) -> str:
        """Verify a token, and return ``valid`` or the reason of the denial."""
        text = token if isinstance(token, str) else token.text
        [result] = (await self.ask(api.Verify([text]), None)).results
        return "valid" if isinstance(result, api.Valid) else str(result.reason)

    async def feed(self, *kids: bytes, after: int = 0, wait_ms: int = 0) -> api.Feed:
        return await self.ask(api.Revocations(list(kids), after, wait_ms), None)

    async def keys(self, name: str = "acme") -> list[api.Key]:
        page = await self.ask(api.ListOrganizations())
        return next(each for each in page.organizations if each.name == name).keys

    @property
    def position(self) -> int:
        return self.authority.position


@asynccontextmanager
async def open_world(path: Path | str = MEMORY, **options: Any) -> AsyncIterator[World]:
    world = World(path, **options)
    await world.open()
    try:
        yield world
    finally:
        await world.authority.close()


def lineage(token: Macaroon) -> api.Lineage:
    return api.Lineage(token.kid, token.nonce)


def branch(token: Macaroon) -> api.Branch:
    return api.Branch(token.kid, token.nonce, token.branch)


def run(test: Callable[[World], Awaitable[None]], path: Path | str = MEMORY, **options: Any) -> None:
    """Run a test in a world with the organizations acme and evil. It has 30 s."""

    async def bounded() -> None:
        async with asyncio.timeout(30), open_world(path, **options) as world:
            await world.create("acme")
            await world.create("evil")
            await test(world)

    asyncio.run(bounded())
