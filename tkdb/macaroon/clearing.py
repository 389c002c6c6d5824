"""The check of a verified token against an access: its organization first, then each of its caveats.

The token must belong to the organization whose data the access touches, and all its caveats must clear. The error is
about the first caveat that doesn't.

Verification (the chain is valid, and nothing is revoked) happens before, in another module. This module contains the
*meaning* of the caveats. The exact rule for each tag is in its check below and in ``docs/caveats.md``.

>>> from tkdb.macaroon.access import Access, Policy
>>> from tkdb.macaroon.caveats import Act, Exp
>>> policy = Policy(organization="acme", clock=lambda: 1_700_000_000)
>>> clear("acme", (Exp(1_800_000_000), Act("r")), Access(action="r"), policy)
>>> clear("acme", (Exp(1_800_000_000), Act("r")), Access(action="w"), policy)
Traceback (most recent call last):
...
tkdb.errors.CaveatUnmet: caveat 2 of 2 (act r) is not met: it allows r; the request is w
>>> clear("other", (Act("r"),), Access(action="r"), policy)
Traceback (most recent call last):
...
tkdb.errors.ForeignOrganization: the token belongs to the organization other; the request is for data of acme
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from re import ASCII
from re import compile as compile_pattern
from typing import Any, Final, TypeGuard
from urllib.parse import unquote_to_bytes

from tkdb.errors import CaveatUnmet, ConfigurationError, Denied, ExpiredToken, ForeignOrganization, NotYetValid
from tkdb.macaroon.access import ANY, ANY_ORGANIZATION, Access, AnyId, Policy
from tkdb.macaroon.caveats import (
    ANY_ID,
    Act,
    AnyCaveat,
    App,
    Aud,
    Bind,
    Cnf,
    Exp,
    If,
    Ip,
    Nbf,
    Org,
    Pre,
    Req,
    Res,
    Src,
    Sub,
    Usr,
    written,
)

# No glob matches these: empty or dot segments, backslashes, characters outside printable ASCII, and escapes that some
# router may turn into a separator or a dot after the check. Those are %2f %5c %2e %3b %3f %23 %00, %25 (it can hide one
# of them), and invalid escapes (%u002e). Nor does any glob match escapes that aren't UTF-8: see _unescaped.
_UNSAFE_PATH = compile_pattern(
    r"//|/\.\.?(?:[/;]|\Z)|[^!-~]|[\\?#]|%(?:2[fFeE53]|5[cC]|3[bBfF]|00|(?![0-9A-Fa-f]{2}))"
).search

# After the part that its prefix spells out, an id with one of these is ambiguous: empty or dot segments, backslashes,
# control characters (URL parsers drop some of them, and NUL ends a file's name), lone surrogates (the bytes of a name
# that isn't UTF-8), and escapes that hide a separator or another escape. _is_ambiguous decodes the other escapes. Ids
# aren't always paths of URLs, so they may contain spaces, letters of any language, and a "%" that begins no escape.
_UNSAFE_ID = compile_pattern(
    r"//|(?:\A|/) *\.\.? *(?:[/;?#]|\Z)|[\x00-\x1f\x7f\\\ud800-\udfff]"
    r"|%(?:2[fF5]|[0-9A-Fa-f]?%|[uU][0-9A-Fa-f]{4})"
).search

# Most ids look like this: slashes between segments of letters and digits. None of them matches _UNSAFE_ID, and this
# pattern is the faster one.
_PLAIN_ID = compile_pattern(r"/?+[\w-][\w.-]*+(?:/[\w-][\w.-]*+)*+/?+", ASCII).fullmatch


def clear(
    organization: str,
    caveats: Sequence[AnyCaveat],
    access: Access,
    policy: Policy,
    *,
    only: Callable[[AnyCaveat], bool] | None = None,
) -> None:
    """Check that a token of ``organization`` with these caveats allows the access.

    ``only``: check only the caveats for which it returns True. The others stay to be cleared.

    Raises:
        ForeignOrganization: the access is for the data of another organization.
        ExpiredToken, NotYetValid, CaveatUnmet: a caveat doesn't clear. The error is about the first such caveat, and
            says what was seen.
        ConfigurationError: neither the access nor the policy names an organization, or neither gives the time.
    """
    # The common case, one organization named by the policy, needs no call: this is the hot path of every app.
    if policy.organization != organization or access.organization is not None:
        require_organization(organization, access, policy)
    clock = policy.clock
    now_s = clock() if clock is not None and access.now_s is None else _now_s(access, policy)
    check_of = _CHECKS.get
    for caveat in caveats if only is None else filter(only, caveats):
        why = check_of(type(caveat), _foreign)(caveat, access, policy, now_s)
        if why is not None:
            raise _denial(caveats, caveat, why)


def require_organization(organization: str, access: Access, policy: Policy) -> None:
    """Check that a token of ``organization`` belongs to each organization that the access and the policy name.

    Raises:
        ForeignOrganization: it belongs to another one.
        ConfigurationError: neither of them names one.
    """
    if access.organization is None and policy.organization is None:
        raise ConfigurationError(
            "neither the access nor the policy names the organization whose data is touched",
            hint='write Policy(organization="acme") in an app of one organization, Access(organization=...) in an app '
            "of several, or ANY_ORGANIZATION if tokens of every organization are welcome",
        )
    for wanted in (policy.organization, access.organization):
        if isinstance(wanted, str) and wanted != organization:
            raise ForeignOrganization(
                f"the token belongs to the organization {organization}; the request is for data of "
                f"{printable(wanted)[:63] or 'an organization without a name'}"
            )


def admit(organization: str, caveats: Sequence[AnyCaveat], policy: Policy) -> None:
    """Check the parts of a token that need no access: its times, its audience, and that it belongs to the policy's
    organization, if the policy names one. Everything else stays to be cleared.

    Raises:
        ForeignOrganization, ExpiredToken, NotYetValid, CaveatUnmet: as ``clear``.
        ConfigurationError: the policy doesn't give the time.
    """
    clear(organization, caveats, _NO_ACCESS, policy, only=_needs_no_access)


def explain(caveats: Sequence[AnyCaveat], access: Access, policy: Policy) -> list[str | None]:
    """Return one item for each caveat: None if it clears, else the reason why not. It covers all caveats, not only the
    first that denies.

    Raises:
        ConfigurationError: neither the access nor the policy gives the time.
    """
    now_s = _now_s(access, policy)
    return [_CHECKS.get(type(caveat), _foreign)(caveat, access, policy, now_s) for caveat in caveats]


def describe(caveat: AnyCaveat) -> str:
    """Return a caveat as text for people: its tag, then its fields. It contains no terminal control sequences."""
    tag, _, fields = written(caveat).decode()[2:-1].partition('",')
    return printable(f"{tag} {fields[1:-1]}" if fields.startswith('"') and "," not in fields else f"{tag} {fields}")


def printable(text: str) -> str:
    """Return a form of ``text``, which comes from a token's holder or a request, that is safe to show."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_NO_ACCESS: Final = Access(organization=ANY_ORGANIZATION)


def _needs_no_access(caveat: AnyCaveat) -> bool:
    return isinstance(caveat, Exp | Nbf | Aud)


def _now_s(access: Access, policy: Policy) -> float:
    if access.now_s is not None:
        return access.now_s
    if policy.clock is None:
        raise ConfigurationError(
            "neither the access nor the policy gives the time", hint="pass Policy(clock=time.time)"
        )
    return policy.clock()


def _denial(caveats: Sequence[AnyCaveat], caveat: AnyCaveat, why: str) -> Denied:
    index = next(at for at, other in enumerate(caveats, 1) if other is caveat)
    where = f"caveat {index} of {len(caveats)}"
    if type(caveat) in _CHECKS:
        where += f" ({describe(caveat)})"
    if isinstance(caveat, Exp):
        return ExpiredToken(f"{where}: {why}", caveat=index, hint="ask for a new token")
    if isinstance(caveat, Nbf):
        return NotYetValid(f"{where}: {why}", caveat=index, hint="wait, or check this machine's clock")
    return CaveatUnmet(f"{where} is not met: {why}", caveat=index)


_WILD: Final = frozenset({"*", "**"})


# Each check returns None if the caveat clears. Otherwise it returns what the caveat allows and what was seen.


def _nbf(caveat: Nbf, _access: Access, policy: Policy, now_s: float) -> str | None:
    if now_s + policy.skew_s >= caveat.at_s:  # type: ignore[operator]  # the policy made it a number
        return None
    return f"valid in {caveat.at_s - now_s:.0f} s"


def _exp(caveat: Exp, _access: Access, policy: Policy, now_s: float) -> str | None:
    if now_s - policy.skew_s <= caveat.at_s:  # type: ignore[operator]  # the policy made it a number
        return None
    return f"expired {now_s - caveat.at_s:.0f} s ago"


def _act(caveat: Act, access: Access, _policy: Policy, _now_s: float) -> str | None:
    return _allowed(caveat.actions, access.action)


def _res(caveat: Res, access: Access, _policy: Policy, _now_s: float) -> str | None:
    wanted = access.resource.get(caveat.kind)
    if not _names(wanted):
        return _unspecified(caveat.kind, wanted)
    actions = caveat.ids.get(ANY_ID)
    if actions is None and wanted is not ANY:
        actions = caveat.ids.get(wanted)
    if actions is None:
        return f"the request's {caveat.kind} is {_shown(wanted)}, which is not among those allowed"
    return _allowed(actions, access.action)


def _pre(caveat: Pre, access: Access, _policy: Policy, _now_s: float) -> str | None:
    wanted = access.resource.get(caveat.kind)
    if not _names(wanted):
        return _unspecified(caveat.kind, wanted)
    if wanted is ANY:
        return _every_id(caveat, access, f"the request is for every {caveat.kind}; only some are allowed")
    prefix = _longest_prefix(caveat, wanted)
    if prefix is None:
        return f"the request's {caveat.kind} is {_shown(wanted)}, which has none of the prefixes allowed"
    if _is_ambiguous(wanted, prefix, caveat):
        # A store may read it as any other id.
        why = f"the request's {caveat.kind} {_shown(wanted)} is ambiguous: a store may read it as another id"
        return why if _every_id(caveat, access, why) else None
    return _allowed(caveat.ids[prefix], access.action)


def _every_id(caveat: Pre, access: Access, unless: str) -> str | None:
    """Allow every id only if every prefix allows the action, including the longer prefixes."""
    if ANY_ID not in caveat.ids:
        return unless
    return next((why for actions in caveat.ids.values() if (why := _allowed(actions, access.action))), None)


def _longest_prefix(caveat: Pre, wanted: str) -> str | None:
    longest, found = -1, None
    for prefix in caveat.ids:
        size = 0 if prefix == ANY_ID else len(prefix)
        if size > longest and (prefix == ANY_ID or wanted.startswith(prefix)):
            longest, found = size, prefix
    return found


def _is_ambiguous(wanted: str, prefix: str, caveat: Pre) -> bool:
    """Return True if a store may read this id as an id that another prefix, or none, decides about. The part that the
    prefix spells out is meant as it is, up to its last slash."""
    if prefix == ANY_ID and len(caveat.ids) > 1:
        # Many stores ignore a slash at the beginning. So an id with one may be an id that a prefix without one names.
        rooted = wanted.startswith("/")
        if any(other != ANY_ID and other.startswith("/") is not rooted for other in caveat.ids):
            return True
    if _PLAIN_ID(wanted):
        return False
    spelled = "" if prefix == ANY_ID else prefix
    start = max(spelled.rfind("/"), 0)
    if _UNSAFE_ID(wanted, start):
        return True
    if "%" not in wanted:
        return False
    rest = _unescaped(wanted[len(spelled) :])
    if rest is None:
        return True
    decoded = spelled + rest
    return _UNSAFE_ID(decoded, start) is not None or _longest_prefix(caveat, decoded) != prefix


def _if(caveat: If, access: Access, policy: Policy, now_s: float) -> str | None:
    named = [inner for inner in caveat.caveats if inner.kind in access.resource]
    if not named:
        return _allowed(caveat.otherwise, access.action)
    return next((why for inner in named if (why := _CHECKS[type(inner)](inner, access, policy, now_s))), None)


def _aud(caveat: Aud, _access: Access, policy: Policy, _now_s: float) -> str | None:
    if policy.audience == caveat.service:
        return None
    return f"only {caveat.service} may accept it; this is {policy.audience or 'a service that has no name'}"


def _fact(_caveat: Sub, _access: Access, _policy: Policy, _now_s: float) -> str | None:
    return None  # A fact restricts nothing. Verification has checked that it is in a position where facts are allowed.


def _ip(caveat: Ip, access: Access, _policy: Policy, _now_s: float) -> str | None:
    if access.ip is None:
        return "the request's address is not known"
    address = _address(access.ip)
    if address is None:
        return "the request's address can't be read"
    if any(address in _network(text) for text in caveat.networks):
        return None
    return f"the request comes from {str(address).partition('%')[0]}"  # a zone may contain any text


def _src(caveat: Src, access: Access, _policy: Policy, _now_s: float) -> str | None:
    source = access.source
    if source is None:
        return "the network attests no source for this request"
    for name in ("organization", "app", "machine"):
        allowed, seen = getattr(caveat, name), getattr(source, name)
        if allowed is not None and allowed != seen:
            return f"it allows the {name} {allowed}; the request comes from {seen}"
    return None


def _req(caveat: Req, access: Access, _policy: Policy, _now_s: float) -> str | None:
    method, path = access.method, access.path
    if method is None or path is None:
        return "the request's method or path is not known"
    if method not in caveat.methods and caveat.methods != ("*",):
        return f"it allows {' '.join(caveat.methods)}; the request is {method[:32]!a}"
    if path[:1] != "/" or _UNSAFE_PATH(path) or ("%" in path and _unescaped(path) is None):
        return "the request's path is ambiguous: it has an empty, dotted or escaped part"
    segments = path.split("/")
    if any(_matches(glob.split("/"), segments) for glob in caveat.paths):
        return None
    return f"the request's path {path[:200]!a} is none of those allowed"


def _cnf(caveat: Cnf, access: Access, _policy: Policy, _now_s: float) -> str | None:
    if access.key_thumbprint == caveat.thumbprint:
        return None
    return "the request is not signed with the key that the token is bound to"


def _discharge_only(_caveat: Any, _access: Access, _policy: Policy, _now_s: float) -> str | None:
    return "it is allowed only in a discharge"


def _foreign(_caveat: Any, _access: Access, _policy: Policy, _now_s: float) -> str | None:
    return "it is not a first-party caveat, so it can't be cleared here"


def _app(caveat: App, access: Access, policy: Policy, _now_s: float) -> str | None:
    checker = policy.checkers.get(caveat.name)
    if checker is None:
        return f"this app has no checker for x:{caveat.name}"
    try:
        cleared = checker(caveat.value, access)
    except Exception as error:  # noqa: BLE001 - the app's code may raise any error: it denies, and isn't passed on
        return f"the checker of x:{caveat.name} failed with {type(error).__name__}"
    return None if cleared is True else f"the checker of x:{caveat.name} did not return True"


_CHECKS: Final[dict[type, Callable[[Any, Access, Policy, float], str | None]]] = {
    Nbf: _nbf,
    Exp: _exp,
    Act: _act,
    Res: _res,
    Pre: _pre,
    If: _if,
    Aud: _aud,
    Sub: _fact,
    Ip: _ip,
    Src: _src,
    Req: _req,
    Cnf: _cnf,
    Bind: _discharge_only,
    Usr: _discharge_only,
    Org: _discharge_only,
    App: _app,
}


def _allowed(actions: str, wanted: str | None) -> str | None:
    if not wanted:
        return "action unspecified: the request names no action"
    if wanted in actions if len(wanted) == 1 else set(wanted).issubset(actions):
        return None
    return f"it allows {actions or 'nothing'}; the request is {printable(wanted)[:32]}"


def _names(wanted: object) -> TypeGuard[str | AnyId]:
    """Return True if a request names a resource: by ``ANY``, or by an id. The text "*" is no id, nor is ""."""
    return wanted is ANY or (isinstance(wanted, str) and wanted != ANY_ID and wanted != "")


def _unspecified(kind: str, wanted: object) -> str:
    if wanted is None:
        return f"resource unspecified: the request names no {kind}"
    return f"resource unspecified: {ascii(wanted)[:200]} is not an id of the kind {kind}; ids are text; ANY means all"


def _unescaped(text: str) -> str | None:
    """Return ``text`` with its percent-escapes decoded, or None if they aren't UTF-8. Overlong forms aren't: a lenient
    decoder reads ``%c0%af``, ``%e0%80%af`` and ``%f0%80%80%af`` as slashes."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        return None


def _shown(wanted: str | AnyId) -> str:
    return "all of them" if wanted is ANY else ascii(wanted)[:200]


def _matches(glob: list[str], segments: list[str]) -> bool:
    if len(segments) != len(glob) and (glob[-1] != "**" or len(segments) < len(glob)):
        return False
    # zip stops at the glob's end, because the segments that a last "**" covers after its first one may be anything.
    return all(want == got or (want in _WILD and got) for want, got in zip(glob, segments, strict=False))


_ADDRESS_CHARS: Final = 128
"""The longest text that is read as an address: an IPv6 address with its zone is shorter."""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    return _short_address(text) if len(text) <= _ADDRESS_CHARS else None


@lru_cache(maxsize=1024)
def _short_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


_network = lru_cache(maxsize=1024)(ip_network)
