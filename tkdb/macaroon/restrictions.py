"""Restrictions: the arguments by which Python and the command line name caveats, in one list for all of them.

>>> written({"action": "r", "resource": {"app": {"shop": "rw"}}, "audience": "billing"})
[Aud(service='billing'), Act(actions='r'), Res(kind='app', ids=mappingproxy({'shop': 'rw'}))]
>>> written({"resource": {}})
Traceback (most recent call last):
...
tkdb.errors.InvalidCaveat: resource={} names nothing: write {"app": {"shop": "rw"}}, or leave it out

``None`` means that the argument restricts nothing. Any other value that names nothing is refused, because it would
restrict nothing although its author meant a restriction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Final, TypeAlias, TypedDict, TypeVar

from tkdb.arguments import Duration, reject, seconds, shown, text, whole_seconds
from tkdb.errors import ConfigurationError, InvalidCaveat
from tkdb.macaroon.caveats import Act, AnyCaveat, App, Aud, Bind, Caveat, If, Ip, Pre, Req, Res, Sub

Grants: TypeAlias = Mapping[str, Mapping[str, str]]
"""Kind to id (or to prefix) to actions, as in ``{"app": {"shop": "rw"}}``."""

C = TypeVar("C")
G = TypeVar("G", Res, Pre)
V = TypeVar("V")


class Restrictions(TypedDict, total=False):
    """The arguments that restrict a token, the same for ``mint`` and ``narrow``. Each is None by default.

    Attributes:
        action: the allowed actions, out of ``rwcdC``.
        resource: the allowed resources: kind to id to actions. The id ``*`` is any (``res``).
        prefix: the same, with prefixes of ids (``pre``).
        otherwise: the actions that are allowed for requests that name none of the kinds in ``resource`` and ``prefix``.
            Without it, such requests are denied. With it, the two become one ``if`` caveat.
        audience: the only service that may accept the token (``aud``).
        ip: the client's network, such as ``10.0.0.0/8``, or several (``ip``).
        method: the HTTP method. Without ``path``, any path is allowed (``req``).
        path: a path glob, such as ``/v1/apps/*``. Without ``method``, any method is allowed (``req``).
    """

    action: str | None
    resource: Grants | None
    prefix: Grants | None
    otherwise: str | None
    audience: str | None
    ip: str | Iterable[str] | None
    method: str | None
    path: str | None


NAMES: Final = tuple(Restrictions.__annotations__)


def written(given: Restrictions) -> list[AnyCaveat]:
    """Return the caveats for the arguments, always in the same order, so that equal calls give equal tokens.

    Raises:
        InvalidCaveat: an argument isn't a valid caveat. The message names the argument.
        ConfigurationError: there is no such argument.
    """
    if not given:
        return []
    for name in given:
        if name not in NAMES:
            raise ConfigurationError(f"there is no argument {name}", hint=f"the restrictions are {', '.join(NAMES)}")
    caveats: list[AnyCaveat] = []
    audience, action = given.get("audience"), given.get("action")
    if audience is not None:
        caveats.append(_built("audience", Aud, _text("audience", audience, "write the name of a service")))
    if action is not None:
        caveats.append(_built("action", Act, _text("action", action, _ACTIONS)))
    caveats += _resources(given.get("resource"), given.get("prefix"), given.get("otherwise"))
    networks = given.get("ip")
    if networks is not None:
        caveats.append(_built("ip", Ip, _networks(networks)))
    method, path = given.get("method"), given.get("path")
    if method is not None or path is not None:
        caveats.append(_request(method, path))
    return caveats


def minted(given: Restrictions, subject: str | None, caveats: Iterable[object]) -> list[AnyCaveat]:
    """Return the caveats of a token to be minted: the fact, the restrictions, then further caveats.

    Raises:
        InvalidCaveat, ConfigurationError: as ``written``.
    """
    facts: list[AnyCaveat] = []
    if subject is not None:
        facts.append(_built("subject", Sub, _text("subject", subject, "name whom the token is minted for")))
    return [*facts, *written(given), *checked(caveats)]


def lifetime_s(expires_in_s: Duration | None) -> int | None:
    """Return the lifetime of a token to be minted, in whole seconds.

    Raises:
        InvalidCaveat: it is less than 1 s, or not a number of whole seconds.
    """
    return None if expires_in_s is None else whole_seconds("expires_in_s", expires_in_s, kind=InvalidCaveat)


def checked(caveats: Iterable[object]) -> list[AnyCaveat]:
    """Return the caveats that a caller passed, if all are caveats.

    Raises:
        InvalidCaveat: one isn't.
    """
    found = list(caveats)
    for caveat in found:
        if not isinstance(caveat, _CAVEATS):
            hint = 'pass caveats of tkdb_client.caveats, such as App("plan", "pro")'
            reject("a caveat", caveat, "is not a caveat", hint, kind=InvalidCaveat)
    return found  # type: ignore[return-value]  # the subclasses of Caveat are the members of the union


def appendable(caveats: Iterable[object]) -> list[AnyCaveat]:
    """Return the caveats that a caller passed, if a holder may append all of them.

    Raises:
        InvalidCaveat: one isn't a caveat, belongs in a discharge, or states a fact, which only the authority may do.
    """
    found = checked(caveats)
    for caveat in found:
        if caveat.fact:
            raise InvalidCaveat(f"{type(caveat).__name__} states a fact, which only the authority may do")
        if type(caveat) is Bind:
            raise InvalidCaveat("a bind caveat is allowed only in a discharge; here it would deny everything")
    return found


def expiry_s(expires_in_s: Duration, now_s: float | None) -> int:
    """Return the Unix second up to which a token is valid if it is narrowed to ``expires_in_s``. The lifetime is
    rounded up by a quarter at most, so that calls within a short time give the same second.

    Raises:
        InvalidCaveat: an argument is missing or out of range.
    """
    for_s = seconds("expires_in_s", expires_in_s, kind=InvalidCaveat)
    if not 1 <= for_s < 2**40:
        reject(
            "expires_in_s", expires_in_s, "is not a duration from 1 s on", "pass 60, or a timedelta", kind=InvalidCaveat
        )
    if isinstance(now_s, bool) or not isinstance(now_s, int | float) or not 0 <= now_s < 2**40:
        reject("now_s", now_s, "is not a time", "pass time.time() together with expires_in_s", kind=InvalidCaveat)
    bucket_s = max(1, int(for_s) // 4)
    return ceil((now_s + for_s) / bucket_s) * bucket_s


_CAVEATS: Final = (Caveat, App)
_ACTIONS: Final = 'write letters out of rwcdC, such as "r" or "rw"'
_GRANTS: Final = {
    "resource": 'write {"app": {"shop": "rw"}}, or leave it out',
    "prefix": 'write {"object": {"logs/": "r"}}, or leave it out',
}


def _resources(resource: Grants | None, prefix: Grants | None, otherwise: str | None) -> list[AnyCaveat]:
    grants: list[Res | Pre] = [*_granted("resource", Res, resource), *_granted("prefix", Pre, prefix)]
    if otherwise is None:
        return list[AnyCaveat](grants)
    if not isinstance(otherwise, str):
        reject("otherwise", otherwise, "names no actions", _ACTIONS, kind=InvalidCaveat)
    if not grants:
        raise InvalidCaveat(
            f"otherwise={shown(otherwise)} is given without resource and prefix", hint="pass action= for every request"
        )
    return [_built("otherwise", lambda actions: If(tuple(grants), actions), otherwise)]


def _granted(name: str, kind_of: type[G], grants: Grants | None) -> list[G]:
    if grants is None:
        return []
    hint = _GRANTS[name]
    if not isinstance(grants, Mapping):
        reject(name, grants, "is not a map from kinds to ids to actions", hint, kind=InvalidCaveat)
    if not grants:
        reject(name, grants, "names nothing", hint, kind=InvalidCaveat)
    for kind, ids in grants.items():
        if not isinstance(kind, str) or not isinstance(ids, Mapping):
            reject(name, grants, "is not a map from kinds to ids to actions", hint, kind=InvalidCaveat)
        if not all(isinstance(each, str) for pair in ids.items() for each in pair):
            reject(name, grants, "has an id or actions that aren't text", hint, kind=InvalidCaveat)
    found: list[G] = []
    for kind, ids in sorted(grants.items()):
        try:
            found.append(kind_of(kind, dict(sorted(ids.items()))))
        except InvalidCaveat as error:
            raise _named(name, {kind: dict(ids)}, error) from None
    return found


def _networks(networks: object) -> tuple[str, ...]:
    hint = 'write "10.0.0.0/8", or a list of networks'
    if isinstance(networks, str):
        return (_text("ip", networks, hint),)
    if not isinstance(networks, Iterable) or isinstance(networks, bytes):
        reject("ip", networks, "is not a network", hint, kind=InvalidCaveat)
    found = tuple(networks)
    if not found:
        reject("ip", networks, "names nothing", hint, kind=InvalidCaveat)
    for each in found:
        _text("ip", each, hint)
    return found


def _request(method: str | None, path: str | None) -> AnyCaveat:
    """Return the caveat for a method and a path. If one is None, any is allowed."""
    methods = ("*",) if method is None else (_text("method", method, "write GET, in capitals"),)
    paths = ("/", "/**") if path is None else (_text("path", path, "write /v1/apps/*, or /v1/** for all below"),)
    try:
        return Req(methods, paths)
    except InvalidCaveat as error:
        _built("method", lambda _: Req(methods, ("/",)), method)
        raise _named("path", path, error) from None


def _text(name: str, value: object, hint: str) -> str:
    return text(name, value, hint=hint, kind=InvalidCaveat)


def _built(name: str, make: Callable[[V], C], value: V) -> C:
    """Return the caveat that ``make`` builds. Its error gets the name of the argument."""
    try:
        return make(value)
    except InvalidCaveat as error:
        raise _named(name, value, error) from None


def _named(name: str, value: object, error: InvalidCaveat) -> InvalidCaveat:
    return InvalidCaveat(f"{name}={shown(value)}: {error.message}", hint=error.hint)
