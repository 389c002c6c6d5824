"""The access that a request attempts, and the policy: the facts that the app knows before any request.

Both are checked when they are made, because a mistake in them is the app's own: it must show in the app's tests, and
never as a denial of somebody's token. Text that a caller may have chosen (an id, an organization, an address) is never
such a mistake: if no token can name it, clearing denies.

>>> access = Access(organization="acme", action="r", resource={"app": "shop"}, method="GET", path="/v1/apps/shop")
>>> access.action
'r'
>>> Access(action="read")
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: action='read' names no actions: write letters out of rwcdC, such as "r" or "rw"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from re import compile as compile_pattern
from types import MappingProxyType
from typing import Any, Final, NoReturn

import msgspec

from tkdb.arguments import Duration, reject, seconds
from tkdb.macaroon.caveats import ACTIONS, is_app_name, is_kind


class AnyId(Enum):
    """The type of ``ANY``."""

    ANY = "*"


ANY: Final = AnyId.ANY
"""In ``Access.resource``: the request is for every id of the kind (a list, for example). Only ``*`` allows it."""


class AnyOrganization(Enum):
    """The type of ``ANY_ORGANIZATION``."""

    ANY_ORGANIZATION = "any organization"


ANY_ORGANIZATION: Final = AnyOrganization.ANY_ORGANIZATION
"""As an organization: tokens of every organization are welcome, because the data isn't any organization's own."""

_ORGANIZATION = compile_pattern(r"[a-z0-9][a-z0-9._-]{0,62}").fullmatch
_LETTERS: Final = frozenset(ACTIONS)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The caller, as the network attests it (never as the caller claims it)."""

    organization: str | None = None
    app: str | None = None
    machine: str | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                reject(name, value, "is not text", "pass a str, or leave it out if it is unknown")


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """The access that one request attempts. An omitted field is unknown, and a caveat about it denies.

    Attributes:
        organization: the organization whose data the request touches. Only its own tokens clear.
            ``ANY_ORGANIZATION`` if tokens of every organization are welcome. Default: the policy's.
        action: one letter of ``rwcdC`` (read, write, create, delete, control), or several attempted together.
        resource: a map from kind to id, for each kind that the request touches. The id is ``ANY`` for all ids, and None
            if the request touches the kind without an id. An integer counts as its decimal text.
        method: the HTTP method.
        path: the path exactly as received, with its percent-escapes, without the query.
        ip: the client's address, IPv4 or IPv6, as text.
        source: the calling machine, app and organization, as attested.
        key_thumbprint: RFC 7638 thumbprint of the key that signed this request; the signature must be checked already.
        now_s: the time at which caveats are cleared, in Unix seconds. Default: the time of the policy's clock.
        extra: any data that the app's checkers need.

    Raises:
        ConfigurationError: a field has a value that no token could ever allow, or a wrong type.
    """

    organization: str | AnyOrganization | None = None
    action: str | None = None
    resource: Mapping[str, str | int | AnyId | None] = MappingProxyType({})
    method: str | None = None
    path: str | None = None
    ip: str | None = None
    source: Source | None = None
    key_thumbprint: str | None = None
    now_s: float | None = None
    extra: Any = None

    def __post_init__(self) -> None:
        _check_organization(self.organization)
        action = self.action
        if action is not None and not (isinstance(action, str) and action and _LETTERS.issuperset(action)):
            reject("action", action, "names no actions", f'write letters out of {ACTIONS}, such as "r" or "rw"')
        if self.resource:
            _check_resource(self)
        elif not isinstance(self.resource, Mapping):
            _reject_resource(self.resource)
        for name in _TEXTS:
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                reject(name, text, "is not text", "pass a str, or leave it out if it is unknown")
        if self.source is not None and not isinstance(self.source, Source):
            reject("source", self.source, "is not a Source", 'write Source(organization="acme", app="web")')
        if self.now_s is not None and (isinstance(self.now_s, bool) or not isinstance(self.now_s, int | float)):
            reject("now_s", self.now_s, "is not a time", "pass Unix seconds, or leave it out")


Checker = Callable[[Any, Access], bool]
"""An app's check of one ``x:NAME`` caveat: (the caveat's value, the access) -> True to clear."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that the app knows before any request: whose data it holds, its name, the time, and the checkers of its
    own caveats.

    Attributes:
        organization: the organization whose data the app holds. No access clears for a token of another one. An app
            that holds data of several leaves it out, and names the organization in each access. ``ANY_ORGANIZATION`` if
            tokens of every organization are welcome.
        clock: returns Unix seconds. Default: the client's clock.
        audience: the name of this app as a service, for ``aud``.
        skew_s: how far the clocks of the minter and the app may differ, for ``nbf`` and ``exp``: seconds, or a
            ``timedelta``.
        checkers: the checker for each of the app's own caveats ``x:NAME``, under NAME.

    Raises:
        ConfigurationError: a field has a value that can't be meant, or a wrong type.
    """

    organization: str | AnyOrganization | None = None
    clock: Callable[[], float] | None = None
    audience: str | None = None
    skew_s: Duration = 0
    checkers: Mapping[str, Checker] = MappingProxyType({})

    def __post_init__(self) -> None:
        _check_organization(self.organization)
        if isinstance(self.organization, str) and not _ORGANIZATION(self.organization):
            reject("organization", self.organization, "can't be the name of an organization", 'write "acme"')
        if self.clock is not None and not callable(self.clock):
            reject("clock", self.clock, "is not a function", "pass time.time, or leave it out")
        if self.audience is not None and not (isinstance(self.audience, str) and self.audience):
            reject("audience", self.audience, "is not the name of a service", "pass text, or leave it out")
        msgspec.structs.force_setattr(self, "skew_s", seconds("skew_s", self.skew_s))
        if not isinstance(self.checkers, Mapping) or not all(map(callable, self.checkers.values())):
            reject("checkers", self.checkers, "is not a map from names to functions", 'write {"plan": check_plan}')
        for name in self.checkers:
            if not is_app_name(name):
                reject("checkers", name, "has a name that no caveat can have", 'write "plan" for the caveat x:plan')


_TEXTS: Final = ("method", "path", "ip", "key_thumbprint")


def _check_organization(name: object) -> None:
    if not (name is None or name is ANY_ORGANIZATION or isinstance(name, str)):
        reject("organization", name, "is not the name of an organization", 'write "acme", or ANY_ORGANIZATION')


def _check_resource(access: Access) -> None:
    resource = access.resource
    if not isinstance(resource, Mapping):
        _reject_resource(resource)
    numbers = False
    for kind, name in resource.items():
        if not isinstance(kind, str) or not is_kind(kind):
            reject("resource", kind, "has a kind that no token can name", 'write a short ASCII name, such as "app"')
        if isinstance(name, int) and not isinstance(name, bool):
            numbers = True
        elif name is not None and name is not ANY and not isinstance(name, str):
            hint = "pass text or an integer, ANY for every id, or None for no id"
            reject("resource", {kind: name}, "has an id of a wrong type", hint)
    if numbers:
        ids = {kind: str(name) if isinstance(name, int) else name for kind, name in resource.items()}
        msgspec.structs.force_setattr(access, "resource", ids)


def _reject_resource(value: object) -> NoReturn:
    reject("resource", value, "is not a map from kinds to ids", 'write {"app": "shop"}')
