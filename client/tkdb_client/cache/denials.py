"""Final denials, kept for a short time: a repeated bad bundle is denied without a request.

They are found by the SHA-256 of the whole bundle with its discharges, so two bundles never share one. They have
separate room, so that no number of bad bundles removes a good entry. A denial that may change isn't kept: an unknown
key, a token that isn't valid yet, a stale machine.

>>> negatives = Denials(max_bytes=10_000)
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

_FIXED_BYTES: Final = 600
"""The memory of a denial in CPython without its texts, measured (tests/client/cache/test_cache_limits.py)."""

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
        max_bytes: the largest size of all denials. A denial's text may quote the denied token.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
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
            self._drop(digest)
            return None
        self._kept.move_to_end(digest)
        return invalid.error()

    def put(self, digest: bytes, invalid: api.Invalid, *, now_ms: int) -> None:
        """Keep a denial if it is final."""
        if invalid.reason not in FINAL:
            return
        self._drop(digest)
        self._kept[digest] = invalid, now_ms + KEPT_MS
        self._bytes += _size(invalid)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all denials."""
        self._kept.clear()
        self._bytes = 0

    def _drop(self, digest: bytes) -> None:
        kept = self._kept.pop(digest, None)
        if kept is not None:
            self._bytes -= _size(kept[0])


def _size(invalid: api.Invalid) -> int:
    # In CPython, one rare character makes each character of its text take 4 bytes.
    return _FIXED_BYTES + 4 * (len(invalid.message) + len(invalid.hint))
