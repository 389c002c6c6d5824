"""A stand-in for flycast that runs in another thread, so that synchronous tests can use it."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from tests.background import Background
from tests.waiting import until
from tkdb_ops.flycast.addresses import Sixpn
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.machines import Command, VirtualMachine

ECHO = Path(__file__).with_name("echo.py")
TIMEOUT_S = 30

T = TypeVar("T")


def echo(machine: VirtualMachine) -> Command:
    """Return the command of a machine that runs the echo app."""
    return Command([sys.executable, "-I", "-S", str(ECHO)], {"BIND": str(machine.bind)})


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Args:
        status: the HTTP status.
        headers: the headers of the response.
        machine: the machine that answered; empty if the proxy did.
        echoed: the machine's description of the request: see echo.py.
        text: the body.
    """

    status: int
    headers: httpx.Headers
    machine: str
    echoed: dict[str, Any]
    text: str

    @property
    def request(self) -> dict[str, str]:
        """The headers of the request, as the machine received them."""
        headers: dict[str, str] = self.echoed["headers"]
        return headers


class StandIn:
    """A stand-in for code that isn't asynchronous."""

    def __init__(self, flycast: Flycast) -> None:
        self.flycast = flycast
        self._background = Background("stand-in")
        self._doors: dict[tuple[str, str], str] = {}
        self._http = httpx.Client()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the stand-in's event loop."""
        return self._background.do(coroutine)

    def ask(
        self,
        region: str = "sin",
        *,
        app: str = "tkdb",
        body: bytes | None = None,
        path: str = "/",
        timeout_s: float = TIMEOUT_S,
        **headers: str,
    ) -> Answer:
        """Send a request as a caller in ``region``: POST if it has a body. Underscores in headers become dashes."""
        if (region, app) not in self._doors:
            self._doors[region, app] = self.do(self.flycast.door(region, app))
        got = self._http.request(
            "GET" if body is None else "POST",
            self._doors[region, app] + path,
            content=body,
            timeout=timeout_s,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        json = got.headers.get("content-type") != "text/plain" and got.text.startswith("{")
        echoed = got.json() if json else {}
        return Answer(got.status_code, got.headers, echoed.get("machine", ""), echoed, got.text)

    def machine(self, name: str) -> VirtualMachine:
        return self.flycast.machines[name]

    def private_address(self, name: str) -> str:
        """Return the 6PN address of a machine."""
        layout = self.flycast.layout
        return Sixpn(layout).private(layout.machine(name))

    def until_answered_by(self, machine: str, region: str = "sin", **request: Any) -> None:
        """Wait until ``machine`` answers. A request in flight into a cut hangs, so each attempt has a short timeout."""

        def answered() -> bool:
            try:
                return self.ask(region, timeout_s=2, **request).machine == machine
            except httpx.TimeoutException:
                return False

        until(answered)

    def restore(self) -> None:
        """Undo all faults of a test, and wait until every proxy considers every machine of tkdb healthy."""
        if not self.flycast.not_emulated:
            self.do(self.flycast.backbone.heal())
        for machine in self.flycast.machines.values():
            if machine.slot.app != "lazy":
                self.do(machine.start())
        names = {one.id for one in self.flycast.layout.of_app("tkdb")}
        for region in self.flycast.layout.regions:
            until(lambda region=region: self.do(self.flycast.seen(region)) == names)  # type: ignore[misc]

    def __enter__(self) -> Self:
        self._background.start()
        self.do(self.flycast.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self.do(self.flycast.__aexit__(None, None, None))
        self._background.stop()
