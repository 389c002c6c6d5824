"""The demo: an authority of three regions on this machine, and an app in a fourth region that meets typical faults.

    python docs/demo.py

It runs a lab (docs/flycast.md): a real object store, a proxy in each region, and real machines. It leaves no process
and no file. Each line shows how long a step took and which region answered. The demo checks each step: if a result is
wrong, it prints the expected one, and its exit code is 1.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from tkdb_client import Access, AsyncClient, Denied, Macaroon, TkdbError, Unavailable, errors
from tkdb_ops.flycast.regions import round_trip_ms
from tkdb_ops.lab.folder import claimed
from tkdb_ops.lab.lab import Lab

REGIONS: Final = ("iad", "ams", "syd")
APP_IN: Final = "sin"
LEASE_MS: Final = 3_000  # of the primary; the default of 9 s would only make the demo longer
BOUND_S: Final = 5.0  # no app accepts a token for longer than this after its revocation is acknowledged
CALL_EVERY_S: Final = 0.05
PATIENCE_S: Final = 60

T = TypeVar("T")


class Otherwise(Exception):
    """A result that isn't the expected one. Its text is the expectation."""


async def main() -> None:
    """Start a lab, and play all of the demo."""
    began_s = time.perf_counter()
    running = asyncio.current_task()
    assert running is not None  # noqa: S101  a coroutine runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with tempfile.TemporaryDirectory(prefix="tkdb-demo-") as folder, claimed(Path(folder, "lab")) as here:
        up = Lab(here, REGIONS, (APP_IN, *REGIONS), settings={"TKDB_LEASE_MS": str(LEASE_MS)}, progress=Progress())
        async with up as lab, await lab.client(APP_IN) as app:
            for missing in lab.flycast.not_emulated:
                say("but", "", f"not emulated here: {missing}")
            await Demo(lab, app).play()
    say("done", since(began_s), "nothing is left running, and no file is left")


class Demo:
    """The steps of the demo, as one app sees them.

    Args:
        lab: the authority.
        app: its client.
    """

    def __init__(self, lab: Lab, app: AsyncClient) -> None:
        self.lab = lab
        self.app = app

    async def play(self) -> None:
        """Play every step, from the first call to the return of the nearest region."""
        await self.is_served_by_the_nearest()
        token = await self.makes_a_token()
        child = await self.narrows_and_clears(token)
        await self.revokes(token, child)
        await self.loses_the_nearest()
        await self.loses_the_primary(child)
        await self.gets_the_nearest_back()

    async def is_served_by_the_nearest(self) -> None:
        """Check that Sydney, the nearest region with a machine, serves Singapore."""
        await self.app.status()  # The first call opens a connection, which takes one more round trip.
        statuses = [await timed(self.app.status()) for _ in range(5)]
        took_ms = min(took_ms for _, took_ms in statuses)
        expect(all(status.region == "syd" for status, _ in statuses), f"a caller in {APP_IN} is served by syd")
        if not self.lab.flycast.not_emulated:
            far_ms = round_trip_ms(APP_IN, "syd")
            expect(far_ms <= took_ms < 2 * far_ms, f"a call from sin to syd takes about {far_ms:.0f} ms")
        say("nearest", ms(took_ms), f"syd answers a caller in {APP_IN}, which has no machine")

    async def makes_a_token(self) -> Macaroon:
        """Create an organization and mint a token, as a signer does."""
        organization, took, by = await self.asked(self.app.create_organization("acme"))
        expect(by == ["iad", "syd"], "a write goes to syd, and fly-replay takes it to iad")
        say("create", took, f"iad, through syd: the organization {organization.name} and its root key")
        call = self.app.mint("acme", action="rw", resource={"app": {"shop": "rw"}}, expires_in_s=3600)
        token, took, by = await self.asked(call)
        expect(by == ["syd"], "a token is minted in the nearest region")
        say("mint", took, f"syd: a token of acme that may read and write the app shop, {len(token.text)} characters")
        return token

    async def narrows_and_clears(self, token: Macaroon) -> Macaroon:
        """Narrow, verify, clear and deny, as an app does."""
        began_s = time.perf_counter()
        child = self.app.narrow(token, action="r", expires_in_s=60)
        say("narrow", since(began_s), "offline: the new token may only read, for a minute")
        for _ in range(2):
            asked = self.app.cache_info().misses
            verified, took, by = await self.asked(self.app.verify(child))
            # The cache's count of misses decides, because its feed may have sent a request in this time.
            who = "from the cache" if self.app.cache_info().misses == asked else " ".join(by)
            say("verify", took, f"{who}: the chain is valid, {len(verified.caveats)} caveats, not revoked")
        began_s = time.perf_counter()
        verified.clear(Access(organization="acme", action="r", resource={"app": "shop"}))
        say("clear", since(began_s), "in the app: reading the app shop is allowed")
        began_s = time.perf_counter()
        try:
            verified.clear(Access(organization="acme", action="w", resource={"app": "shop"}))
        except Denied as denial:
            say("denied", since(began_s), f"in the app: {denial}")
            return child
        raise Otherwise("a token that may only read does not clear for a write")

    async def revokes(self, token: Macaroon, child: Macaroon) -> None:
        """Revoke the token. When the call returns, no crash can bring back the token, or any token narrowed from it."""
        _, took, by = await self.asked(self.app.revoke(token))
        expect(by == ["iad", "syd"], "a revocation goes to syd, and fly-replay takes it to iad, the primary")
        say("revoke", took, "iad, through syd: acknowledged, for the token and every token narrowed from it")
        await self.is_refused_everywhere(child)

    async def is_refused_everywhere(self, child: Macaroon) -> None:
        """Check the refusal from new apps with empty caches, each of which asks the machine nearest to it."""
        began_s = time.perf_counter()

        async def refused(region: str) -> str:
            async with await self.lab.client(region) as app:
                await until(lambda: is_revoked(app, child), f"a revoked token is refused in {region}", BOUND_S)
            return f"{region} after {since(began_s)}"

        after = await asyncio.gather(*map(refused, (APP_IN, *REGIONS)))
        say("refused", since(began_s), "everywhere: " + " · ".join(after))

    async def loses_the_nearest(self) -> None:
        """Kill the nearest machine. The proxies switch to the next region, and the client repeats calls in flight."""
        async with Calls(self.app) as calls:
            await until(lambda: calls.answered_by("syd", times=20), "syd answers before it is killed")
            began_s = time.perf_counter()
            await self.lab.machine("syd").kill()
            await until(lambda: calls.answered_by("ams"), "ams answers once syd is killed")
            say("kill -9", since(began_s), "syd, the nearest region, is lost: ams answers instead")
            await until(lambda: calls.answered_by("ams", times=20), "ams keeps answering")

    async def loses_the_primary(self, child: Macaroon) -> None:
        """Kill the primary: the last machine takes over, and every acknowledged write still holds."""
        before = (await self.app.status()).cluster
        spare = await self.app.mint("acme")
        async with Calls(self.app) as calls:
            began_s = time.perf_counter()
            await self.lab.machine("iad").kill()
            await until(lambda: is_written(self.app, spare), "writes work again after the primary is killed")
            took = since(began_s)
            await until(lambda: calls.answered_by("ams"), "ams answers")
            status = await self.app.status()
            after = status.cluster
            expect((status.region, status.role) == ("ams", "primary"), "ams is the primary now")
            expect(bool(before and after and after.epoch > before.epoch), "a new epoch has begun")
            epoch = f"epoch {after.epoch if after else '?'}"
            lease = f"its lease was {LEASE_MS / 1000:.0f} s"
            say("kill -9", took, f"iad, the primary, is lost: ams takes writes ({epoch}; {lease})")
        await self.is_refused_everywhere(child)

    async def gets_the_nearest_back(self) -> None:
        """Start the nearest machine again, with its old volume."""
        async with Calls(self.app) as calls:
            began_s = time.perf_counter()
            await self.lab.machine("syd").start()
            await until(lambda: calls.answered_by("syd"), "syd answers once it is back")
            say("start", since(began_s), "syd is back and answers again")

    async def asked(self, call: Awaitable[T]) -> tuple[T, str, list[str]]:
        """Return a call's result, how long it took, and the regions to which the proxies sent it."""
        before = await self._requests()
        result, took_ms = await timed(call)
        after = await self._requests()
        return result, ms(took_ms), sorted(region for region in REGIONS if after[region] > before[region])

    async def _requests(self) -> dict[str, int]:
        return {region: await self.lab.flycast.requests(self.lab.machine(region).id) for region in REGIONS}


class Calls:
    """Calls of an app, 20 a second within the ``async with``, and their results. Slow calls don't delay later ones.

    Raises:
        Otherwise: at the end, if a call has failed.
    """

    def __init__(self, app: AsyncClient) -> None:
        self._app = app
        self._under_way: set[asyncio.Task[None]] = set()
        self._answered: list[str] = []
        self._failed: list[str] = []
        self._longest_ms = 0.0

    async def answered_by(self, region: str, times: int = 1) -> bool:
        """Return True if the last ``times`` answers came from ``region``."""
        return self._answered[-times:] == times * [region]

    async def __aenter__(self) -> Self:
        self._beginning = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beginning.cancel()
        await asyncio.gather(*self._under_way)
        if error is None:
            failed = f"{len(self._failed)} of {len(self._answered) + len(self._failed)} did: {self._failed[:1]}"
            expect(not self._failed, f"no call fails; {failed}")
            say("calls", ms(self._longest_ms), f"{len(self._answered)} made, none failed; the longest took this long")

    async def _go_on(self) -> None:
        while True:
            call = asyncio.create_task(self._call())
            self._under_way.add(call)
            call.add_done_callback(self._under_way.discard)
            await asyncio.sleep(CALL_EVERY_S)

    async def _call(self) -> None:
        """Ask for the status, a read that no cache answers."""
        began_s = time.perf_counter()
        try:
            self._answered.append((await self._app.status()).region)
        except TkdbError as failed:
            self._failed.append(str(failed))
        self._longest_ms = max(self._longest_ms, 1000 * (time.perf_counter() - began_s))


async def is_revoked(app: AsyncClient, token: Macaroon) -> bool:
    """Return True if a token is denied as revoked."""
    try:
        await app.verify(token)
    except errors.RevokedToken:
        return True
    return False


async def is_written(app: AsyncClient, token: Macaroon) -> bool:
    """Return True if a revocation is acknowledged. It is a write that is safe to repeat."""
    try:
        await app.revoke(token)
    except Unavailable:  # OutcomeUnknown is a subclass of this.
        return False
    return True


async def until(reached: Callable[[], Awaitable[bool]], expected: str, limit_s: float = PATIENCE_S) -> None:
    """Wait until ``reached`` returns True.

    Raises:
        Otherwise: it hasn't within ``limit_s``.
    """
    give_up_s = time.monotonic() + limit_s
    while not await reached():
        expect(time.monotonic() < give_up_s, f"{expected}, within {limit_s:.0f} s")
        await asyncio.sleep(0.01)


def expect(true: bool, expected: str) -> None:
    """End the demo unless a condition holds.

    Raises:
        Otherwise: the condition doesn't hold.
    """
    if not true:
        raise Otherwise(expected)


async def timed(call: Awaitable[T]) -> tuple[T, float]:
    """Return the result of ``call``, and how long it took, in ms."""
    began_s = time.perf_counter()
    result = await call
    return result, 1000 * (time.perf_counter() - began_s)


def since(began_s: float) -> str:
    """Return the time since ``began_s`` as readable text."""
    return ms(1000 * (time.perf_counter() - began_s))


def ms(took_ms: float) -> str:
    """Return a time as readable text."""
    if took_ms >= 1000:
        return f"{took_ms / 1000:.1f} s"
    return f"{took_ms:.0f} ms" if took_ms >= 1 else f"{took_ms * 1000:.0f} µs"


def say(what: str, took: str, text: str) -> None:
    """Print one line of the transcript."""
    print(f"{what:<8} {took:>7}  {text}", flush=True)  # noqa: T201  the transcript is the purpose of the demo


class Progress:
    """A callback that prints each part that has started, and how long that took."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()

    def __call__(self, what: str) -> None:
        say("up", since(self._last_s), what)
        self._last_s = time.perf_counter()


def run() -> int:
    """Run the demo; return its exit code."""
    try:
        asyncio.run(main())
    except (Otherwise, TkdbError) as error:
        expected = "expected: " if isinstance(error, Otherwise) else ""
        sys.stderr.write(f"the demo failed: {expected}{error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped", "", "nothing is left running, and no file is left")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
