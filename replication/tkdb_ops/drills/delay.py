"""The scheduling delay of this machine, sampled by a thread during a drill.

On a machine that is too busy, a process waits for a core, and each measured time contains this wait. The thread asks to
be woken every 20 ms, and records how much later it runs. It does nothing else, so the delay isn't the drill's own work.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Self

from tkdb_ops.drills.figures import percentile
from tkdb_ops.drills.record import Delay

if TYPE_CHECKING:
    from types import TracebackType

PERIOD_S: Final = 0.02


class DelaySampler:
    """A sampler, which runs inside its context."""

    def __init__(self) -> None:
        self._late_ms: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="tkdb-drill-delay", daemon=True)

    @property
    def delay(self) -> Delay:
        """The delay so far."""
        late_ms = tuple(self._late_ms)
        return Delay(len(late_ms), percentile(late_ms, 99) or 0, max(late_ms, default=0))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.is_set():
            before_ns = time.monotonic_ns()
            time.sleep(PERIOD_S)
            self._late_ms.append((time.monotonic_ns() - before_ns) // 1_000_000 - int(PERIOD_S * 1000))
