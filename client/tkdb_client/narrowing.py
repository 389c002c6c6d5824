"""Remembered narrowing: the same call within a short time returns the same token, which is made once.

>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[])
>>> narrowing = Narrowing()
>>> child = narrowing.narrow(token.text, now_s=1_000.0, expires_in_s=60, action="r")
>>> narrowing.narrow(token.text, now_s=1_001.0, expires_in_s=60, action="r") is child
True
>>> child.caveats
(Act(actions='r'), Exp(at_s=1065))
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from types import MappingProxyType
from typing import Any, Final, Unpack

from tkdb.arguments import Duration
from tkdb.macaroon.caveats import AnyCaveat, encode
from tkdb.macaroon.restrictions import Restrictions, checked, expiry_s
from tkdb.macaroon.token import Macaroon
from tkdb_client import arguments

MAX_BYTES: Final = 4 << 20
"""The largest size of all remembered tokens. Callers choose the size of the tokens that an app narrows."""

# The memory of one in CPython, measured (tests/client/test_client_narrowing.py): its objects; the given token as text
# and the narrowed one as bytes, as text and in parts; and an object for each caveat.
_FIXED_BYTES: Final = 1_200
_CAVEAT_BYTES: Final = 120
_TOKEN_TIMES: Final = 6

_MAPS: Final = (dict, MappingProxyType)


class Narrowing:
    """The last narrowed tokens. Any number of threads may share it."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Macaroon] = {}
        self._bytes = 0

    def narrow(
        self,
        token: Macaroon | str,
        *caveats: AnyCaveat,
        now_s: float,
        expires_in_s: Duration | None = None,
        **given: Unpack[Restrictions],
    ) -> Macaroon:
        """Return ``token`` narrowed, as ``Macaroon.narrow`` does it.

        Raises:
            InvalidCaveat, ConfigurationError: an argument isn't valid. The message names it.
            TruncatedToken, MalformedToken, OverLimit: the token can't be read, or becomes too large.
        """
        parent = arguments.token(token)
        ends_s = None if expires_in_s is None else expiry_s(expires_in_s, now_s)
        networks = given.get("ip")
        if networks is not None and not isinstance(networks, str) and isinstance(networks, Iterable):
            given = {**given, "ip": tuple(networks)}  # it is read twice, and an iterator can be read once
        key: Hashable = None
        try:
            key = (
                parent if isinstance(parent, str) else parent.raw,
                tuple(map(encode, checked(caveats))) if caveats else (),
                ends_s,
                *given,
                *[_frozen(value) if type(value) in _MAPS else value for value in given.values()],
            )
            narrowed = self._known.get(key)
        except (TypeError, AttributeError):
            narrowed = None  # A value of a wrong type can't be in a key. The error is raised below, with its name.
        if narrowed is None:
            macaroon = Macaroon.parse(parent) if isinstance(parent, str) else parent
            narrowed = macaroon.narrow(*caveats, expires_in_s=expires_in_s, now_s=now_s, **given)
            # Threads may add at the same time. Then the sum is too small by one token each, until the next clearing.
            self._bytes += _size(narrowed)
            if self._bytes > MAX_BYTES:
                self._known.clear()  # tokens still in use are made once again
                self._bytes = _size(narrowed)
            self._known[key] = narrowed
        return narrowed


def _frozen(grants: Any) -> Hashable:
    """Return a map from kind to id to actions in a form that can be in a key."""
    return tuple([(kind, tuple(ids.items())) for kind, ids in grants.items()])


def _size(narrowed: Macaroon) -> int:
    return _FIXED_BYTES + _CAVEAT_BYTES * len(narrowed.packets) + _TOKEN_TIMES * len(narrowed.raw)
