"""A stand-in that runs beside the tests, on a thread of its own, and what tests ask of it."""

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
PATIENCE_S = 30

T = TypeVar("T")


def echo(machine: VirtualMachine) -> Command:
    """What a machine runs that only says who it is."""
    return Command([sys.executable, "-I", "-S", str(ECHO)], {"BIND": str(machine.bind)})


@dataclass(frozen=True)
class Answer:
    """What a request came back with.

    Args:
        status: the HTTP status.
        headers: those of the response.
        machine: who answered; empty where the proxy did.
        said: all that the machine said of the request.
        text: the body.
    """

    status: int
    headers: httpx.Headers
    machine: str
    said: dict[str, Any]
    text: str

    @property
    def request(self) -> dict[str, str]:
        """The headers that the machine was sent."""
        headers: dict[str, str] = self.said["headers"]
        return headers


class Standing:
    """A stand-in, used from code that isn't asynchronous."""

    def __init__(self, flycast: Flycast) -> None:
        self.flycast = flycast
        self._background = Background("stand-in")
        self._doors: dict[tuple[str, str], str] = {}
        self._http = httpx.Client()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the stand-in runs."""
        return self._background.do(coroutine)

    def ask(
        self,
        region: str = "sin",
        *,
        app: str = "tkdb",
        body: bytes | None = None,
        path: str = "/",
        patience_s: float = PATIENCE_S,
        **headers: str,
    ) -> Answer:
        """Send a request as a caller in ``region``: POST if it has a body. Underscores in headers are dashes."""
        if (region, app) not in self._doors:
            self._doors[region, app] = self.do(self.flycast.door(region, app))
        got = self._http.request(
            "GET" if body is None else "POST",
            self._doors[region, app] + path,
            content=body,
            timeout=patience_s,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        json = got.headers.get("content-type") != "text/plain" and got.text.startswith("{")
        said = got.json() if json else {}
        return Answer(got.status_code, got.headers, said.get("machine", ""), said, got.text)

    def machine(self, name: str) -> VirtualMachine:
        return self.flycast.machines[name]

    def flycast_private(self, name: str) -> str:
        """The 6PN address of a machine."""
        layout = self.flycast.layout
        return Sixpn(layout).private(layout.machine(name))

    def until_answered_by(self, machine: str, region: str = "sin", **request: Any) -> None:
        """Wait until ``machine`` is who answers. What is in flight into a cut hangs: it is given up and asked again."""

        def answered() -> bool:
            try:
                return self.ask(region, patience_s=2, **request).machine == machine
            except httpx.TimeoutException:
                return False

        until(answered)

    def whole(self) -> None:
        """Bring back what a test has broken, and wait until every proxy sees it."""
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
