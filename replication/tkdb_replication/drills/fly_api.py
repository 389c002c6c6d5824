"""The part of Fly's Machines API that drills use: list, stop, start, cordon, uncordon, wait. Each for one app only.

https://fly.io/docs/machines/api/machines-resource/ and, for what isn't said there, flyctl's own client
(superfly/fly-go, ``flaps``).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

import httpcore
import msgspec

from tkdb import errors

PUBLIC: Final = "https://api.machines.dev"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}").fullmatch
_PACE_S: Final = 1.0
"""Fly takes about one request a second of each kind of action."""
_TRIES: Final = 5
_TIMEOUT_S: Final = 15.0
_WAIT_S: Final = 60
_BUSY: Final = frozenset({408, 409, 412, 423, 429, 500, 502, 503, 504})


class FlyMachine(msgspec.Struct, frozen=True):
    """A machine, as far as drills need to know it."""

    id: str
    state: str
    region: str


class MachinesApi:
    """The machines of one app.

    Args:
        app: its name.
        token: an API token; ``FlyV1 …`` or bare.
        url: where the API is: the public one, ``http://_api.internal:4280`` inside an organization's network, or
            anything that stands in for it.
        pace_s: the least time between two actions.

    Raises:
        ConfigurationError: the app's name can't be one.
    """

    def __init__(self, app: str, token: str, *, url: str = PUBLIC, pace_s: float = _PACE_S) -> None:
        if not _NAME(app):
            raise errors.ConfigurationError(f"{app!r:.40} can't be the name of an app", hint="give its name on Fly")
        self._base = f"{url.rstrip('/')}/v1/apps/{app}/machines"
        scheme = "" if token.startswith(("FlyV1 ", "Bearer ")) else "Bearer "
        self._headers = [("authorization", scheme + token), ("content-type", "application/json")]
        self._pace_s = pace_s
        self._turn = asyncio.Lock()
        self._last_s = 0.0
        self._pool = httpcore.AsyncConnectionPool(max_connections=4, keepalive_expiry=30)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def machines(self) -> list[FlyMachine]:
        """Return the app's machines.

        Raises:
            ConfigurationError: the API refuses: the token or the app's name is wrong.
            Unavailable: it doesn't answer.
        """
        body = await self._ask("GET", "")
        try:
            return msgspec.json.decode(body, type=list[FlyMachine])
        except msgspec.DecodeError:
            raise errors.Unavailable("Fly's API answered something else than a list of machines") from None

    async def stop(self, machine: str, *, number: str = "SIGTERM", timeout_s: int = 30) -> None:
        """Stop a machine with a signal, and return once it has stopped. It isn't restarted by itself."""
        await self._act(machine, "stop", {"signal": number, "timeout": f"{timeout_s}s"})
        await self._until(machine, "stopped")

    async def start(self, machine: str) -> None:
        """Start a machine, and return once it runs. One that runs already is left alone."""
        if await self.state(machine) not in ("started", "starting"):
            await self._act(machine, "start")
        await self._until(machine, "started")

    async def cordon(self, machine: str) -> None:
        """Have the proxy send a machine nothing more."""
        await self._act(machine, "cordon")

    async def uncordon(self, machine: str) -> None:
        """Have the proxy send it requests again."""
        await self._act(machine, "uncordon")

    async def state(self, machine: str) -> str:
        """Return the state of a machine, such as ``started``."""
        for each in await self.machines():
            if each.id == machine:
                return each.state
        raise errors.Unavailable(f"the app has no machine {machine!r:.40} any more", hint="look at `fly machine list`")

    async def _act(self, machine: str, action: str, body: Mapping[str, Any] | None = None) -> None:
        if not _NAME(machine):
            raise errors.ConfigurationError(f"{machine!r:.40} can't be a machine's id", hint="see `fly machine list`")
        async with self._turn:
            await asyncio.sleep(max(0.0, self._last_s + self._pace_s - time.monotonic()))
            self._last_s = time.monotonic()
            await self._ask("POST", f"/{machine}/{action}", body)

    async def _until(self, machine: str, state: str) -> None:
        give_up_s = time.monotonic() + 2 * _WAIT_S
        while True:
            query = urlencode({"state": state, "timeout": _WAIT_S})
            try:
                await self._ask("GET", f"/{machine}/wait?{query}", timeout_s=_WAIT_S + _TIMEOUT_S, tries=1)
                return
            except errors.Unavailable:
                if await self.state(machine) == state:
                    return
                if time.monotonic() > give_up_s:
                    raise
                await asyncio.sleep(self._pace_s)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        tries: int = _TRIES,
    ) -> bytes:
        """Return the body of what came back; try again what may pass. Every action here may be repeated."""
        content = None if body is None else msgspec.json.encode(body)
        for left in reversed(range(tries)):
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await self._pool.request(method, self._base + path, headers=self._headers, content=content)
                status, said = answer.status, answer.content
            except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
                status, said = 0, type(error).__name__.encode()
            if 200 <= status < 300:
                return said
            if status and status not in _BUSY:
                raise errors.ConfigurationError(
                    f"Fly's API refused {method} {path or '/'}: {status} {said[:200].decode(errors='replace')}",
                    hint="check --app and FLY_API_TOKEN: it takes a token that may change this app's machines",
                )
            if left:
                await asyncio.sleep(self._pace_s * (tries - left))
        raise errors.Unavailable(
            f"Fly's API didn't do {method} {path or '/'}: {status or ''} {said[:200].decode(errors='replace')}".strip(),
            hint="try again",
        )
