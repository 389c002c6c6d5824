"""Remembered narrowing: the same call within a short time returns the same token, which is made once.

>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[])
>>> narrowing = Narrowing()
>>> child = narrowing.narrow(token.text, now_s=1_000.0, act="r", for_s=60)
>>> narrowing.narrow(token.text, now_s=1_001.0, act="r", for_s=60) is child
True
>>> child.caveats
(Act(actions='r'), Exp(at_s=1065))
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final, TypeAlias

from tkdb.macaroon.token import Macaroon, expiry_s

Resources: TypeAlias = Mapping[str, Mapping[str, str]]
"""Kind to id to actions, as in ``{"app": {"shop": "rw"}}``."""

MAX_BYTES: Final = 4 << 20
"""The largest size of all remembered tokens. Callers choose the size of the tokens that an app narrows."""

# The memory of one in CPython, measured (tests/client/test_client_narrowing.py): its objects; the given token as text
# and the narrowed one as bytes, as text and in parts; and an object for each caveat.
_FIXED_BYTES: Final = 1_200
_CAVEAT_BYTES: Final = 120
_TOKEN_TIMES: Final = 6


class Narrowing:
    """The last narrowed tokens. Any number of threads may share it."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Macaroon] = {}
        self._bytes = 0

    def narrow(
        self,
        token: Macaroon | str,
        *,
        now_s: float,
        act: str | None = None,
        res: Resources | None = None,
        aud: str | None = None,
        method: str | None = None,
        path: str | None = None,
        for_s: float | None = None,
    ) -> Macaroon:
        """Return ``token`` narrowed, as ``Macaroon.narrow`` does it.

        Raises:
            InvalidCaveat: an argument isn't a valid caveat.
            TruncatedToken, MalformedToken, OverLimit: the token can't be read, or becomes too large.
        """
        ends_s = None if for_s is None else expiry_s(for_s, now_s)
        resources = res and tuple((kind, tuple(ids.items())) for kind, ids in res.items())
        key = token if isinstance(token, str) else token.raw, act, resources, aud, method, path, ends_s
        narrowed = self._known.get(key)
        if narrowed is None:
            macaroon = Macaroon.parse(token) if isinstance(token, str) else token
            given = {"act": act, "res": res, "aud": aud, "method": method, "path": path}
            narrowed = macaroon.narrow(**given, for_s=for_s, now_s=now_s)  # type: ignore[arg-type]  # as above
            # Threads may add at the same time. Then the sum is too small by one token each, until the next clearing.
            self._bytes += _size(narrowed)
            if self._bytes > MAX_BYTES:
                self._known.clear()  # tokens still in use are made once again
                self._bytes = _size(narrowed)
            self._known[key] = narrowed
        return narrowed


def _size(narrowed: Macaroon) -> int:
    return _FIXED_BYTES + _CAVEAT_BYTES * len(narrowed.packets) + _TOKEN_TIMES * len(narrowed.raw)
