"""Final denials, kept for a short time: a repeated bad bundle is denied without a request.

They are found by the SHA-256 of the whole bundle with its discharges, so two bundles never share one. They have
separate room, so that no number of bad bundles removes a good entry. A denial that may change isn't kept: an unknown
key, a token that isn't valid yet, a stale machine.

>>> negatives = Denials(most=2)
>>> negatives.put(b"digest", api.Invalid(errors.Reason.REVOKED, "it is revoked"), now_ms=0)
>>> negatives.get(b"digest", now_ms=KEPT_MS - 1)
RevokedToken('it is revoked')
>>> negatives.get(b"digest", now_ms=KEPT_MS) is None
True
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from tkdb import api, errors
from tkdb.errors import Reason

KEPT_MS: Final = 10_000
"""How long a denial is kept."""

FINAL: Final = frozenset(
    {
        Reason.BAD_SIGNATURE,
        Reason.CAVEAT_UNMET,
        Reason.DISCHARGE_MISSING,
        Reason.EXPIRED,
        Reason.MALFORMED,
        Reason.OVER_LIMIT,
        Reason.REVOKED,
        Reason.UNKNOWN_CAVEAT,
    }
)
"""The reasons that stay true: the authority would repeat them for the same bundle."""


class Denials:
    """The last final denials. Not safe for threads without a lock.

    Args:
        most: the largest number of denials that are kept.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, tuple[api.Invalid, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: bytes, *, now_ms: int) -> errors.Denied | None:
        """Return the denial of the bundle with this digest, or None."""
        kept = self._kept.get(digest)
        if kept is None:
            return None
        invalid, until_ms = kept
        if now_ms >= until_ms:
            del self._kept[digest]
            return None
        self._kept.move_to_end(digest)
        return invalid.error()

    def put(self, digest: bytes, invalid: api.Invalid, *, now_ms: int) -> None:
        """Keep a denial if it is final."""
        if invalid.reason not in FINAL or not self._most:
            return
        self._kept[digest] = invalid, now_ms + KEPT_MS
        self._kept.move_to_end(digest)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget all denials."""
        self._kept.clear()
