"""Remembered narrowing: the same call within a short time returns the same token, which is made once.

>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[])
>>> narrowing = Narrowing()
>>> child = narrowing.narrow(token.text, now_s=1_000.0, action="r", expires_in_s=60)
>>> narrowing.narrow(token.text, now_s=1_001.0, action="r", expires_in_s=60) is child
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

MOST: Final = 1_024


class Narrowing:
    """The last narrowed tokens. Any number of threads may share it."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Macaroon] = {}

    def narrow(
        self,
        token: Macaroon | str,
        *,
        now_s: float,
        action: str | None = None,
        resource: Resources | None = None,
        audience: str | None = None,
        method: str | None = None,
        path: str | None = None,
        expires_in_s: float | None = None,
    ) -> Macaroon:
        """Return ``token`` narrowed, as ``Macaroon.narrow`` does it.

        Raises:
            InvalidCaveat: an argument isn't a valid caveat.
            TruncatedToken, MalformedToken, OverLimit: the token can't be read, or becomes too large.
        """
        ends_s = None if expires_in_s is None else expiry_s(expires_in_s, now_s)
        resources = resource and tuple((kind, tuple(ids.items())) for kind, ids in resource.items())
        key = token if isinstance(token, str) else token.raw, action, resources, audience, method, path, ends_s
        narrowed = self._known.get(key)
        if narrowed is None:
            macaroon = Macaroon.parse(token) if isinstance(token, str) else token
            given = {"action": action, "resource": resource, "audience": audience, "method": method, "path": path}
            narrowed = macaroon.narrow(**given, expires_in_s=expires_in_s, now_s=now_s)  # type: ignore[arg-type]  # as above
            if len(self._known) >= MOST:
                self._known.clear()  # tokens still in use are made once again
            self._known[key] = narrowed
        return narrowed
