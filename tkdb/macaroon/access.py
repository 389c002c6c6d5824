"""The access that a request attempts, and the policy: the facts that the app knows before any request.

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
"""In ``Access.resource``: the request is for every id of the kind (a list, for example). Only ``*`` allows it."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The caller, as the network attests it (never as the caller claims it)."""

    organization: str | None = None
    app: str | None = None
    machine: str | None = None


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """The access that one request attempts. An omitted field is unknown, and a caveat about it denies.

    Attributes:
        action: one letter of ``rwcdC`` (read, write, create, delete, control), or several attempted together.
        resource: a map from kind to id, for each kind that the request touches. The id is ``ANY`` for all ids, and None
            if the request touches the kind without an id.
        method: the HTTP method.
        path: the path exactly as received, with its percent-escapes, without the query.
        ip: the client's address, IPv4 or IPv6, as text.
        source: the calling machine, app and organization, as attested.
        key_thumbprint: RFC 7638 thumbprint of the key that signed this request; the signature must be checked already.
        now_s: the time at which caveats are cleared, in Unix seconds. Default: the time of the policy's clock.
        extra: any data that the app's checkers need.
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
"""An app's check of one ``x:NAME`` caveat: (the caveat's value, the access) -> True to clear."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that the app knows before any request: its name, the time, and the checkers of its own caveats.

    Attributes:
        clock: returns Unix seconds.
        audience: the name of this app as a service, for ``aud``.
        skew_s: how far the clocks of the minter and the app may differ, for ``nbf`` and ``exp``.
        checkers: the checker for each of the app's own caveats ``x:NAME``, under NAME.
    """

    clock: Callable[[], float]
    audience: str | None = None
    skew_s: float = 0
    checkers: Mapping[str, Checker] = MappingProxyType({})
