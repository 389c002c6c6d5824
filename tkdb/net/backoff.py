"""The wait before the next attempt. Pure.

Waits grow exponentially, with full jitter: each is uniform between zero and a ceiling that doubles with each retry.
Callers that failed together therefore don't come back together (Brooker, "Exponential Backoff and Jitter", AWS
Architecture Blog, 2015).

>>> Backoff().wait_ms(3, jitter=0.5)
200
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between the attempts of one call.

    Args:
        base_ms: the ceiling of the first wait. It doubles with each retry.
        cap_ms: the highest ceiling.
        floor_cap_ms: the longest "retry after" that is honoured.
    """

    base_ms: int = 50
    cap_ms: int = 2_000
    floor_cap_ms: int = 5_000

    def wait_ms(self, retry: int, *, jitter: float, at_least_ms: int = 0) -> int:
        """Return the wait before a retry.

        Args:
            retry: 0 for the first retry.
            jitter: uniform in [0, 1).
            at_least_ms: the wait that the last response asked for. The jitter is added to it, because otherwise all
                callers that got the same response would return at the same time.
        """
        # Beyond 2**32 every ceiling is the cap. The limit keeps the power small.
        ceiling_ms = min(self.cap_ms, self.base_ms << min(retry, 32))
        return min(max(at_least_ms, 0), self.floor_cap_ms) + int(ceiling_ms * jitter)
