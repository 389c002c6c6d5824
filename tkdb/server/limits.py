"""The limits of one request, of one connection, and of all requests together.

>>> Limits().body_bytes
65535
>>> gate = Admission(active_max=1, waiting_max=1)
>>> with gate.enter():
...     gate.enter()
Traceback (most recent call last):
...
tkdb.errors.Overloaded: 1 requests are in progress, the most for this machine: try again, or ask another region
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tkdb import errors

RETRY_AFTER_MS: Final = 1_000
_HINT = "try again, or ask another region"


@dataclass(frozen=True, slots=True)
class Limits:
    """The hard limits of the service. Times are in milliseconds.

    A body is one Noise message (65,535 bytes at most). It must be complete ``read_ms`` after its head, and later only
    by the time that its length takes at ``read_bytes_per_s``: 5 s for the longest.

    A proxy must drop an idle connection from its pool before the service closes it, so ``keep_alive_ms`` is above the
    60 s that proxies use.

    ``arriving_max`` and ``arriving_bytes`` limit the bodies that are still arriving, ``active_max`` the requests whose
    body is complete, ``waiting_max`` the long polls, and ``unsent_bytes`` the answers that their callers don't read. A
    caller has ``unsent_ms`` to read an answer.
    """

    body_bytes: int = 65_535
    header_bytes: int = 16_384
    read_ms: int = 2_000
    read_bytes_per_s: int = 21_845
    answer_ms: int = 10_000
    wait_slack_ms: int = 2_000
    keep_alive_ms: int = 65_000
    linger_bytes: int = 1 << 20
    linger_ms: int = 1_000
    unsent_ms: int = 5_000
    unsent_bytes: int = 1 << 25
    arriving_max: int = 1_024
    arriving_bytes: int = 1 << 25
    active_max: int = 256
    waiting_max: int = 4_096
    idle_max: int = 1_024

    @property
    def requests_max(self) -> int:
        """The largest number of requests that arrive, are in progress, or wait."""
        return self.arriving_max + self.active_max + self.waiting_max

    @property
    def connections_max(self) -> int:
        """The largest number of connections: one for each request, and ``idle_max`` without a request.

        So if all connections are in use, at least ``idle_max`` of them have no request and can be closed for new ones.
        """
        return self.requests_max + self.idle_max

    def body_ms(self, size: int) -> float:
        """Return the time in which a body of ``size`` bytes must be complete."""
        return self.read_ms + 1000 * size / self.read_bytes_per_s


class Admission:
    """The counter of requests in progress. Long polls are counted separately, because they cost memory but no work.

    A request is counted once its body is complete. If callers are attested, each count is kept for each app, and no app
    can take all places from the others:

    - One app alone may have all places. If several apps have requests in progress, each app's share is the same part of
      the places. An app below its share gets a place even if all are taken, and the others get none until there is
      room again. So ``n`` apps have at most ``1 + 1/2 + … + 1/n`` times the places.
    - An app may have as many long polls as there are places left for others.

    Callers that aren't attested count as one app, because nothing tells them apart.

    Args:
        active_max: the most requests that are answered at a time.
        waiting_max: the most long polls that wait at a time.

    >>> gate = Admission(active_max=2, waiting_max=1)
    >>> one, other = gate.enter("shop"), gate.enter("shop")
    >>> gate.enter("shop")
    Traceback (most recent call last):
    ...
    tkdb.errors.Overloaded: 2 requests are in progress, the most for this machine: try again, or ask another region
    >>> gate.enter("billing").app
    'billing'
    """

    def __init__(self, *, active_max: int, waiting_max: int) -> None:
        self.active_max = active_max
        self.waiting_max = waiting_max
        self.active: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()

    def enter(self, app: str = "") -> Permit:
        """Return a place among the active requests, for a request of ``app``. Use it as a context manager.

        Raises:
            Overloaded: all places are taken, and the app has its share of them.
        """
        self.require_active(app)
        return Permit(self, app)

    def require_active(self, app: str) -> None:
        """Check that one more request of ``app`` may be active.

        Raises:
            Overloaded: all places are taken, and the app has its share of them.
        """
        if (active := self.active.total()) < self.active_max:
            return
        apps = len(self.active) + (app not in self.active)
        if self.active[app] >= max(1, self.active_max // apps):
            raise errors.Overloaded(
                f"{active} requests are in progress, the most for this machine",
                hint=_HINT,
                retry_after_ms=RETRY_AFTER_MS,
            )

    def require_waiting(self, app: str) -> None:
        """Check that one more long poll of ``app`` may wait.

        Raises:
            Overloaded: all places are taken, or the app has as many as are left.
        """
        waiting = self.waiting.total()
        if waiting >= self.waiting_max or (app and self.waiting[app] >= self.waiting_max - waiting):
            raise errors.Overloaded(
                f"{self.waiting[app]} long polls are waiting, the most for "
                + ("one app on this machine" if app else "this machine"),
                hint=_HINT,
                retry_after_ms=RETRY_AFTER_MS,
            )


class Permit:
    """One request's place in the counts. The end of the ``with`` block gives it back."""

    __slots__ = ("_count", "_gate", "app")

    def __init__(self, gate: Admission, app: str) -> None:
        self._gate = gate
        self.app = app
        self._take(gate.active)

    def wait(self) -> None:
        """Move to the long polls.

        Raises:
            Overloaded: there is no place for one more long poll of the app.
        """
        self._gate.require_waiting(self.app)
        self._free()
        self._take(self._gate.waiting)

    def resume(self) -> None:
        """Move back to the active requests.

        Raises:
            Overloaded: there is no place for one more request of the app.
        """
        self._gate.require_active(self.app)
        self._free()
        self._take(self._gate.active)

    def _take(self, count: Counter[str]) -> None:
        self._count = count
        count[self.app] += 1

    def _free(self) -> None:
        self._count[self.app] -= 1
        if not self._count[self.app]:
            del self._count[self.app]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free()
