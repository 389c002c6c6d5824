"""A way to an object store that makes faults, in a thread of its own: whatever is tested can block.

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
    """Passes connections on to ``host:port``, as ``fault`` says. ``chunks`` counts what clients sent."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._background = Background("faults")

    def __enter__(self) -> Self:
        self._background.start()
        self._gate = self._background.do(self._open())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.do(self._gate.close())
        self._background.stop()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._gate.port

    @property
    def chunks(self) -> int:
        """How often clients have sent something."""
        return self._gate.chunks

    @property
    def fault(self) -> StoreFault:
        """What happens now."""
        return self._gate.fault

    @fault.setter
    def fault(self, fault: StoreFault) -> None:
        async def change() -> None:
            self._gate.change(fault=fault)

        self._background.do(change())

    async def _open(self) -> StoreProxy:
        gate = StoreProxy(*self._target)
        await gate.open()
        return gate
