"""Tokens in words: caveats, times, lineages. Pure.

>>> from tkdb.macaroon.caveats import Act, Exp
>>> words(Act("rw"), now_s=0), words(Exp(3600), now_s=0)
('allows read, write', 'ends 1970-01-01 01:00:00 UTC (in 60 min)')
>>> distance(-5), distance(200), distance(90_000)
('5 s ago', 'in 3 min', 'in 25 h')
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from tkdb.errors import UnknownCaveat
from tkdb.macaroon import caveats as typed
from tkdb.macaroon.clearing import describe
from tkdb.macaroon.wire import Packet, ThirdParty

_ACTIONS: Final = dict(zip(typed.ACTIONS, ("read", "write", "create", "delete", "control"), strict=True))
_SPANS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
_LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999, where the calendar of ``datetime`` ends."""


def distance(seconds: float) -> str:
    """Return the distance of a moment from now, in one unit: ``in 57 min``, ``3 min ago``, ``now``."""
    size = abs(seconds)
    unit, span = next(((unit, span) for unit, span in _SPANS if size >= (2 if span > 1 else 1) * span), ("s", 1))
    count = round(size / span)
    if not count:
        return "now"
    return f"in {count:,} {unit}" if seconds > 0 else f"{count:,} {unit} ago"


def moment(at_s: float) -> str:
    """Return a Unix time as date and time, UTC."""
    if not 0 <= at_s <= _LATEST_S:
        return f"{at_s:.0f} s since 1970"
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def words(packet: typed.AnyCaveat | ThirdParty, *, now_s: float) -> str:
    """Return the meaning of a caveat."""
    match packet:
        case ThirdParty():
            return f"needs a discharge from {place(packet)}"
        case typed.Nbf():
            return f"begins {moment(packet.at_s)} ({distance(packet.at_s - now_s)})"
        case typed.Exp():
            return f"ends {moment(packet.at_s)} ({distance(packet.at_s - now_s)})"
        case typed.Act():
            return f"allows {actions(packet.actions)}"
        case typed.Res() | typed.Pre():
            return grants(packet)
        case typed.If():
            inner = "; ".join(map(grants, packet.caveats))
            return f"if the request names them, {inner}; otherwise allows {actions(packet.otherwise)}"
        case typed.Req():
            return f"only {' '.join(packet.methods)} on {' '.join(packet.paths)}"
        case typed.Ip():
            return f"only from {' '.join(packet.networks)}"
        case typed.Src():
            pairs = (("organization", packet.organization), ("app", packet.app), ("machine", packet.machine))
            return "only from " + ", ".join(f"{name} {value}" for name, value in pairs if value is not None)
        case typed.App():
            return f"the app's own, {packet.name}: {_value(packet.value)}"
    return _of_a_name(packet)


def _of_a_name(caveat: typed.AnyCaveat) -> str:
    match caveat:
        case typed.Aud():
            return f"only {caveat.service} may accept it"
        case typed.Sub():
            return f"a fact: minted for {caveat.subject}"
        case typed.Cnf():
            return f"only signed with the key {caveat.thumbprint}"
        case typed.Usr():
            return f"a fact, in discharges: the user is {caveat.user}"
        case typed.Org():
            return f"a fact, in discharges: the organization is {caveat.organization}"
    return "in discharges: usable with one branch only"


def actions(letters: str) -> str:
    """Return actions as words."""
    return ", ".join(_ACTIONS[letter] for letter in letters) or "nothing"


def grants(caveat: typed.Res | typed.Pre) -> str:
    """Return the grants of a caveat on resources, in words."""
    prefixed = isinstance(caveat, typed.Pre)
    parts = [f"{_names(caveat.kind, name, prefixed=prefixed)}: {actions(each)}" for name, each in caveat.ids.items()]
    return "allows on " + "; ".join(parts)


def _names(kind: str, name: str, *, prefixed: bool) -> str:
    if name == typed.ANY_ID:
        return f"every {kind}"
    return f"{kind} {name}…" if prefixed else f"{kind} {name}"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def place(caveat: ThirdParty) -> str:
    """Return the location that a third-party caveat names."""
    return caveat.location[:200].decode("ascii", "backslashreplace")


def read(packet: Packet) -> typed.AnyCaveat | ThirdParty | str:
    """Return a caveat, typed, or the reason why this version can't read it."""
    if isinstance(packet, ThirdParty):
        return packet
    try:
        return typed.decode(packet)
    except UnknownCaveat as error:
        return error.message


def tag(packet: Packet) -> str:
    """Return a caveat's tag: ``act``, ``x:plan``, ``third party``, or ``?``."""
    if isinstance(packet, ThirdParty):
        return "third party"
    caveat = read(packet)
    if isinstance(caveat, typed.App):
        return f"x:{caveat.name}"
    return "?" if isinstance(caveat, str) else str(type(caveat).__struct_config__.tag)


def brief(packet: Packet) -> str:
    """Return a caveat as its tag and fields: ``act r``."""
    caveat = read(packet)
    return text(packet) if isinstance(caveat, str | ThirdParty) else describe(caveat)


def text(packet: Packet) -> str:
    """Return a caveat as it is in the token, with bytes that aren't ASCII escaped."""
    raw = packet.ticket if isinstance(packet, ThirdParty) else packet
    shown = raw[:300].decode("ascii", "backslashreplace")
    return shown if len(raw) <= 300 else f"{shown}… ({len(raw)} bytes)"
