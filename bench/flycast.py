"""A bench of the failure of the nearest region: how many calls fail, and how long the longest call takes.

It runs in a lab (docs/flycast.md): machines of tkdb in iad, ams and syd behind the stand-in for flycast, and callers in
sin, which syd serves. One fault after the other hits the nearest region. During the faults each contender starts 10
calls a second, independent of the earlier calls (an open loop). Each call must be done within 10 s. A call requests the
status, which no cache answers.

- ``proxy alone``: plain HTTP through the proxy, one attempt for each call.
- ``tkdb``: our client with the one URL of the proxy. The client retries; the proxy chooses the region.
- ``tkdb, by region``: our client with a URL for each region, ``?region=syd``, through the same proxy. The client
  retries, and chooses the region.

All three meet the same fault at the same time. The rows are ``calls``, ``failed calls``, and ``longest call`` (failed
calls included); n is the fault. The last error of each contender goes to stderr.

Run ``python -m bench.flycast [--json] [--quick]``, as root. It takes about three minutes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

from bench.open_loop import OpenLoop
from bench.rows import Row, arguments, emit
from tkdb import api, errors
from tkdb.channel.client import Initiator
from tkdb.net.url import Url
from tkdb_client import AsyncClient
from tkdb_client.calls.transport import Answered, AsyncTransport, Send
from tkdb_ops.flycast import namespaces
from tkdb_ops.lab.folder import claimed
from tkdb_ops.lab.lab import Lab

REGIONS: Final = ("iad", "ams", "syd")
CALLERS: Final = "sin"
NEAREST: Final = "syd"
STEADY: Final = {"TKDB_LEASE_MS": "60000"}  # prevents that on a busy machine the nearest region becomes primary
EVERY_S: Final = 0.1
CALL_MS: Final = 10_000
WELL_S: Final = 60

Act = Callable[[Lab], Awaitable[None]]


class Fault(NamedTuple):
    """A fault of the nearest region, and its repair."""

    name: str
    strike: Act
    mend: Act


def _machine(change: str) -> Act:
    async def act(lab: Lab) -> None:
        await getattr(lab.machine(NEAREST), change)()

    return act


def _proxy(number: signal.Signals) -> Act:
    async def act(lab: Lab) -> None:
        await lab.flycast.proxy(NEAREST).send(number)

    return act


async def _proxy_back(lab: Lab) -> None:
    await lab.flycast.start_proxy(NEAREST)


async def _cut_off(lab: Lab) -> None:
    await lab.flycast.backbone.isolate(NEAREST)


async def _healed(lab: Lab) -> None:
    await lab.flycast.backbone.heal()


FAULTS: Final = (
    Fault("machine killed", _machine("kill"), _machine("start")),
    Fault("machine hung", _machine("pause"), _machine("resume")),
    Fault("machine drained", _machine("stop"), _machine("start")),
    Fault("proxy killed", _proxy(signal.SIGKILL), _proxy_back),
    Fault("proxy hung", _proxy(signal.SIGSTOP), _proxy(signal.SIGCONT)),
    Fault("region cut off", _cut_off, _healed),
)


class Scale(NamedTuple):
    """The faults, the healthy time before each fault, and the duration of each fault."""

    faults: tuple[Fault, ...]
    before_s: float
    lasts_s: float


WHOLE = Scale(FAULTS, before_s=6, lasts_s=10)
QUICK = Scale(FAULTS[:1], before_s=1, lasts_s=1)


async def rows(scale: Scale, folder: Path) -> list[Row]:
    """Measure all faults, in one lab."""
    found: list[Row] = []
    with claimed(folder) as here:
        async with Lab(here, REGIONS, (CALLERS,), isolated=True, settings=STEADY) as lab:
            for fault in scale.faults:
                await _until_well(lab)
                found += await _measured(lab, fault, scale)
    return found


async def _measured(lab: Lab, fault: Fault, scale: Scale) -> list[Row]:
    by_region = [f"{lab.url}?region={region}" for region in (NEAREST, *(each for each in REGIONS if each != NEAREST))]
    async with AsyncExitStack() as stack:
        contenders: dict[str, Callable[[], Awaitable[object]]] = {
            "proxy alone": Bare(lab, stack).status,
            "tkdb": (await stack.enter_async_context(AsyncClient(lab.url, lab.keys.identity))).status,
            "tkdb, by region": (await stack.enter_async_context(AsyncClient(by_region, lab.keys.identity))).status,
        }
        for call in contenders.values():
            await call()  # opens the connection before the fault
        try:
            async with AsyncExitStack() as load:
                loops = {
                    who: await load.enter_async_context(OpenLoop(call, EVERY_S)) for who, call in contenders.items()
                }
                await asyncio.sleep(scale.before_s)
                await fault.strike(lab)
                await asyncio.sleep(scale.lasts_s)
                for loop in loops.values():
                    loop.stop()
        finally:
            await fault.mend(lab)
    found = []
    for who, loop in loops.items():
        found.append(Row("calls", fault.name, who, loop.counted.calls, "calls"))
        found.append(Row("failed calls", fault.name, who, loop.counted.failed, "calls"))
        found.append(Row("longest call", fault.name, who, round(loop.counted.longest_ms), "ms"))
        if loop.counted.last is not None:
            print(f"{fault.name}, {who}: error of the last failed call: {loop.counted.last}", file=sys.stderr)
    return found


async def _until_well(lab: Lab) -> None:
    """Wait until the nearest region serves the callers."""
    give_up_s = time.monotonic() + WELL_S
    async with AsyncClient(lab.url, lab.keys.identity) as client:
        while await lab.flycast.served_in(CALLERS) != NEAREST or (await client.status()).region != NEAREST:
            assert time.monotonic() < give_up_s, f"{NEAREST} doesn't recover"
            await asyncio.sleep(0.1)


class Bare:
    """A caller that makes one attempt for each call. It raises any failure."""

    def __init__(self, lab: Lab, stack: AsyncExitStack) -> None:
        self._url = Url.parse(lab.url)
        self._initiator = Initiator(lab.keys.identity, signer=None, random=os.urandom)
        self._transport = AsyncTransport()
        stack.push_async_callback(self._transport.close)

    async def status(self) -> api.StatusReport:
        """Return the status of the machine that answers."""
        call = api.Status()
        sealed = self._initiator.seal(
            api.VERIFY, api.encode(call), request_id=os.urandom(16), now_ms=time.time_ns() // 1_000_000
        )
        outcome = await self._transport.post(Send(self._url, api.VERIFY, sealed.message, sealed.headers, CALL_MS))
        if not isinstance(outcome, Answered):
            raise errors.Unavailable(outcome.why)
        return api.decode_result(call, api.decode_answer(sealed.open(outcome.message)))


def main() -> None:
    """Measure, and print."""
    parser = arguments("Measure the calls that fail or take long when the nearest region fails.")
    parser.add_argument("--quick", action="store_true", help="one fault, for a second, to check that the bench runs")
    options = parser.parse_args()
    if (why := namespaces.unfit()) is not None:
        parser.error(f"regions can't be isolated here: {why}")
    with tempfile.TemporaryDirectory(prefix="tkdb-bench-") as folder:
        found = asyncio.run(rows(QUICK if options.quick else WHOLE, Path(folder, "lab")))
    emit(found, "Callers in Singapore, when Sydney fails", options.json)


if __name__ == "__main__":
    main()
