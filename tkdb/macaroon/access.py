"""What a request attempts, and what the app that clears it knows beforehand.

>>> access = Access(action="r", resource={"app": "shop"}, method="GET", path="/v1/apps/shop")
>>> access.action
'r'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import msgspec


class AnyId(Enum):
    """The type of ``ANY``."""

    ANY = "*"


ANY: Final = AnyId.ANY
"""In ``Access.resource``: the request is for every id of the kind (a listing). Only ``*`` allows it."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, as the network attests it (never as the caller says it)."""

    organization: str | None = None
    app: str | None = None
    machine: str | None = None


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What one request attempts. What is left out is unknown, and a caveat about it denies.

    Attributes:
        action: one letter of ``rwcdC`` (read, write, create, delete, control), or several attempted together.
        resource: kind to id, for each kind that the request touches; ``ANY`` for all ids; None where the request
            touches the kind without naming an id.
        method: the HTTP method.
        path: the path exactly as received, percent-escapes and all, without the query.
        ip: the client's address, IPv4 or IPv6, as text.
        source: the calling machine, app and organization, as attested.
        key_thumbprint: RFC 7638 thumbprint of the key that signed this request, its signature checked.
        now_s: the time to clear at, in Unix seconds; by default the policy's clock tells.
        extra: whatever the app's own checkers want to see.
    """

    action: str | None = None
    resource: Mapping[str, str | AnyId | None] = MappingProxyType({})
    method: str | None = None
    path: str | None = None
    ip: str | None = None
    source: Source | None = None
    key_thumbprint: str | None = None
    now_s: float | None = None
    extra: Any = None


Checker = Callable[[Any, Access], bool]
"""An app's own check of one ``x:NAME`` caveat: (the caveat's value, the access) -> True to clear."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the app knows before any request: who it is, what time it is, and its own caveats.

    Attributes:
        clock: returns Unix seconds.
        audience: the service that this app is, for ``aud``.
        skew_s: how far the clocks of minter and app may differ, for ``nbf`` and ``exp``.
        checkers: for each of the app's own caveats, ``x:NAME``, its checker under NAME.
    """

    clock: Callable[[], float]
    audience: str | None = None
    skew_s: float = 0
    checkers: Mapping[str, Checker] = MappingProxyType({})
