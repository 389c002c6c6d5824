"""A way to an object store that makes faults, in a thread of its own: whatever is tested can block.

with FaultyProxy("127.0.0.1", port) as proxy:
    proxy.fault = Fault.STALL
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from tkdb_replication.lab.gate import Fault, Gate

__all__ = ["Fault", "FaultyProxy"]

T = TypeVar("T")


class FaultyProxy:
    """Passes connections on to ``host:port``, as ``fault`` says. ``chunks`` counts what clients sent."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults")

    def __enter__(self) -> Self:
        self._thread.start()
        self._gate = self._run(self._open())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._gate.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._gate.port

    @property
    def chunks(self) -> int:
        """How often clients have sent something."""
        return self._gate.chunks

    @property
    def fault(self) -> Fault:
        """What happens now."""
        return self._gate.fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        async def change() -> None:
            self._gate.change(fault=fault)

        self._run(change())

    async def _open(self) -> Gate:
        gate = Gate(*self._target)
        await gate.open()
        return gate

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)
