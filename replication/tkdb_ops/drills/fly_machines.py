"""The machines of one app on Fly, for drills: list, stop, start, cordon and uncordon them, and wait for the effect.

Sources: https://fly.io/docs/machines/api/machines-resource/ and, for facts that aren't documented there, flyctl's
client (superfly/fly-go, ``flaps``).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from tkdb import errors
from tkdb_ops.fly_api import MALFORMED, TIMEOUT_MS, FlyApi, app_path
from tkdb_replication.bucket import http

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}").fullmatch
_PACE_S: Final = 1.0
"""Fly accepts about one request a second for each kind of action."""
_TRIES: Final = 5
_WAIT_S: Final = 60
_BUSY: Final = frozenset({408, 409, 412, 423, 429, 500, 502, 503, 504})


class FlyMachine(msgspec.Struct, frozen=True):
    """A machine, with the fields that drills need."""

    id: str
    state: str
    region: str


class FlyMachines:
    """The machines of one app.

    Args:
        fly: the API.
        app: the app's name.
        pace_s: the minimum time between two actions.

    Raises:
        ConfigurationError: ``app`` can't be the name of an app.
    """

    def __init__(self, fly: FlyApi, app: str, *, pace_s: float = _PACE_S) -> None:
        self._fly = fly
        self._path = f"{app_path(app)}/machines"
        self._pace_s = pace_s
        self._turn = asyncio.Lock()
        self._last_s = 0.0

    async def listed(self) -> list[FlyMachine]:
        """Return the app's machines.

        Raises:
            ConfigurationError: the API refuses the request, because the token or the app's name is wrong.
            Unavailable: the API doesn't answer.
        """
        body = await self._ask("GET", "")
        try:
            return msgspec.json.decode(body, type=list[FlyMachine])
        except MALFORMED:
            raise errors.Unavailable("Fly's API didn't return a list of machines") from None

    async def stop(self, machine: str, *, number: str = "SIGTERM", timeout_s: int = 30) -> None:
        """Stop a machine with a signal, and return once it has stopped. Fly doesn't restart it by itself."""
        await self._act(machine, "stop", {"signal": number, "timeout": f"{timeout_s}s"})
        await self._until(machine, "stopped")

    async def start(self, machine: str) -> None:
        """Start a machine, and return once it runs. Do nothing if it runs already."""
        if await self.state(machine) not in ("started", "starting"):
            await self._act(machine, "start")
        await self._until(machine, "started")

    async def cordon(self, machine: str) -> None:
        """Cordon a machine: the proxy sends it no more requests."""
        await self._act(machine, "cordon")

    async def uncordon(self, machine: str) -> None:
        """Uncordon a machine: the proxy sends it requests again."""
        await self._act(machine, "uncordon")

    async def state(self, machine: str) -> str:
        """Return the state of a machine, such as ``started``."""
        for each in await self.listed():
            if each.id == machine:
                return each.state
        raise errors.Unavailable(f"the app no longer has a machine {machine!r:.40}", hint="look at `fly machine list`")

    async def _act(self, machine: str, action: str, body: Mapping[str, Any] | None = None) -> None:
        if not _ID(machine):
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
                await self._ask("GET", f"/{machine}/wait?{query}", timeout_ms=_WAIT_S * 1_000 + TIMEOUT_MS, tries=1)
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
        timeout_ms: int = TIMEOUT_MS,
        tries: int = _TRIES,
    ) -> bytes:
        """Send a request and return the body of the answer. Retry temporary errors: every action here is repeatable."""
        asked = f"{method} {path or '/'}"
        for left in reversed(range(tries)):
            came = await self._fly.ask(method, self._path + path, body, timeout_ms=timeout_ms)
            if isinstance(came, http.NoResponse):
                why = came.why
            elif 200 <= came.status < 300:
                return came.body
            else:
                why = f"{came.status} {came.body[:200].decode(errors='replace')}".strip()
                if came.status not in _BUSY:
                    raise errors.ConfigurationError(
                        f"Fly's API refused {asked}: {why}",
                        hint="check --app and FLY_API_TOKEN: the token must allow changes to this app's machines",
                    )
            if left:
                await asyncio.sleep(self._pace_s * (tries - left))
        raise errors.Unavailable(f"Fly's API didn't carry out {asked}: {why}", hint="try again")
