"""A proxy with faults in front of an object store. It runs in its own thread, so the code under test may block.

with FaultyProxy("127.0.0.1", port) as proxy:
    proxy.fault = StoreFault.STALL
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tests.background import Background
from tkdb_ops.lab.store_proxy import StoreFault, StoreProxy

__all__ = ["FaultyProxy", "StoreFault"]


class FaultyProxy:
    """Passes connections on to ``host:port``, subject to ``fault``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._background = Background("faults")

    def __enter__(self) -> Self:
        self._background.start()
        self._proxy = self._background.do(self._open())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.do(self._proxy.close())
        self._background.stop()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 at which it listens."""
        return self._proxy.port

    @property
    def chunks(self) -> int:
        """The number of chunks that clients have sent."""
        return self._proxy.chunks

    @property
    def fault(self) -> StoreFault:
        """The present fault."""
        return self._proxy.fault

    @fault.setter
    def fault(self, fault: StoreFault) -> None:
        async def change() -> None:
            self._proxy.change(fault=fault)

        self._background.do(change())

    async def _open(self) -> StoreProxy:
        proxy = StoreProxy(*self._target)
        await proxy.open()
        return proxy
