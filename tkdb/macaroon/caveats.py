"""Typed caveats: the content of first-party caveats.

A caveat's id is a compact JSON array: a short permanent tag, then its fields. It is accepted only if the decoded value
encodes to the same bytes again. So each meaning has exactly one form: no white space, no duplicate keys, no needless
escapes, no ``-0``. Integers are from 0 to 2^53-1; text is not empty and has no control characters.

The rule for changes: fields are never added, removed or reordered, and a tag never changes its meaning. A changed
caveat gets a new tag. An unknown tag denies.

>>> encode(Act("rw"))
b'["act","rw"]'
>>> decode(b'["exp",1900000000]')
Exp(at_s=1900000000)
>>> decode(b'["exp",1900000000,1]')
Traceback (most recent call last):
...
tkdb.errors.UnknownCaveat: a caveat can't be read: Expected `array` of at most length 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network
from re import compile as compile_pattern
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final

import msgspec

from tkdb.armor import ArmorError, b64url, b64url_bytes
from tkdb.errors import InvalidCaveat, UnknownCaveat
from tkdb.macaroon.wire import Packet, ThirdParty

ANY_ID: Final = "*"
ACTIONS: Final = "rwcdC"
"""Read, write, create, delete, control."""

MAX_NETWORKS: Final = 64
"""The most networks in an ``ip`` caveat: each is parsed for each clearing that the memo doesn't help."""

_MASKS: Final = frozenset(
    "".join(letter for bit, letter in enumerate(ACTIONS) if mask >> bit & 1) for mask in range(1 << len(ACTIONS))
)
_KIND = compile_pattern(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}").fullmatch
_NAME = compile_pattern(r"[a-z0-9][a-z0-9._-]{0,63}").fullmatch
_METHOD = compile_pattern(r"[A-Z]{1,16}|\*").fullmatch
_SEGMENT = compile_pattern(r"[A-Za-z0-9._~!$&'()+,;=:@%-]+").fullmatch

Integer = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Some = msgspec.Meta(min_length=1)


class Caveat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="tag"):
    """A first-party caveat. It is immutable, including its fields, so that all readers can share one object."""

    fact: ClassVar[bool] = False
    """True if the caveat states a fact rather than restricts. A fact counts only among the authority's own caveats."""


class Nbf(Caveat, frozen=True, tag="nbf"):
    """Valid only from this Unix second on, inclusive."""

    at_s: Integer


class Exp(Caveat, frozen=True, tag="exp"):
    """Valid only up to this Unix second, inclusive."""

    at_s: Integer


class Act(Caveat, frozen=True, tag="act"):
    """Only for these actions: letters out of ``rwcdC``, in that order."""

    actions: str

    def __post_init__(self) -> None:
        _check_actions(self.actions)


class Res(Caveat, frozen=True, tag="res"):
    """Only for these resources of one kind: a map from id to actions. ``*`` means any id, and must be the only entry.

    An access without an id of the kind is denied as "resource unspecified".
    """

    kind: str
    ids: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_grants(self)
        if ANY_ID in self.ids and len(self.ids) > 1:
            raise InvalidCaveat("a res caveat names * together with other ids", hint="use * alone, or use a pre caveat")


class Pre(Caveat, frozen=True, tag="pre"):
    """The same as ``Res``, with prefixes of ids (object paths). The longest matching prefix decides; ``*`` matches any
    id, and counts as the shortest prefix. An id that a store may read as another id needs what every id needs."""

    kind: str
    ids: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_grants(self)


class If(Caveat, frozen=True, tag="if"):
    """A condition. If the access names kinds of these ``Res`` and ``Pre`` caveats, the caveats of those kinds must
    clear. If it names none of the kinds, only the actions in ``otherwise`` are allowed. It is never nested."""

    caveats: Annotated[tuple[Res | Pre, ...], Some]
    otherwise: str

    def __post_init__(self) -> None:
        _check_actions(self.otherwise)


class Aud(Caveat, frozen=True, tag="aud"):
    """Only for this service: no other service may accept the token."""

    service: str

    def __post_init__(self) -> None:
        _check_text(self.service)


class Sub(Caveat, frozen=True, tag="sub"):
    """A fact: the subject that the token was minted for."""

    fact = True
    subject: str

    def __post_init__(self) -> None:
        _check_text(self.subject)


class Ip(Caveat, frozen=True, tag="ip"):
    """Only from these client addresses: at most 64 different CIDR networks in their canonical text, IPv4 or IPv6."""

    networks: Annotated[tuple[str, ...], Some]

    def __post_init__(self) -> None:
        _make_tuple(self, "networks")
        if len(self.networks) > MAX_NETWORKS or len(set(self.networks)) < len(self.networks):
            raise InvalidCaveat(
                f"an ip caveat names a network twice, or more than {MAX_NETWORKS} of them",
                hint="name each network once, and join neighbors into a larger network",
            )
        for text in self.networks:
            try:
                canonical = str(ip_network(text))
            except ValueError:
                canonical = None
            # Zones (fe80::1%eth0) are rejected because a zone has a meaning on one machine only.
            if text != canonical or "%" in text:
                raise InvalidCaveat("an ip caveat names something that is not a network", hint="write 10.0.0.0/8")


class Src(Caveat, frozen=True, tag="src"):
    """Only from this organization, app and machine, as the network attests them.
    Null means any; at most two are null."""

    organization: str | None
    app: str | None
    machine: str | None

    def __post_init__(self) -> None:
        given = [text for text in (self.organization, self.app, self.machine) if text is not None]
        if not given:
            raise InvalidCaveat("a src caveat names nobody", hint="name the organization, the app or the machine")
        for text in given:
            _check_text(text)


class Req(Caveat, frozen=True, tag="req"):
    """Only for these HTTP methods on these path globs. The method ``*`` means any method, and must be the only entry.

    A glob begins with ``/``. Each segment is literal, or is ``*`` (one whole segment); the last segment may be ``**``
    (one or more segments). Paths are compared as sent, with their percent-escapes.
    """

    methods: Annotated[tuple[str, ...], Some]
    paths: Annotated[tuple[str, ...], Some]

    def __post_init__(self) -> None:
        _make_tuple(self, "methods")
        _make_tuple(self, "paths")
        if not all(isinstance(each, str) for each in (*self.methods, *self.paths)):
            raise InvalidCaveat("a req caveat has a method or a path that isn't text", hint="write GET and /v1/apps/*")
        if not all(map(_METHOD, self.methods)) or ("*" in self.methods and len(self.methods) > 1):
            raise InvalidCaveat("a req caveat names no HTTP method", hint="write GET, in capitals, or * alone")
        for path in self.paths:
            first, *segments = path.split("/")
            last = len(segments) - 1
            good = not first and all(
                segment == "*" or (segment == "**" and at == last) or (not segment and at == last) or _literal(segment)
                for at, segment in enumerate(segments)
            )
            if not good or not segments:
                raise InvalidCaveat("a req caveat names no path glob", hint="write /v1/apps/*, or /v1/** for all below")


class Cnf(Caveat, frozen=True, tag="cnf"):
    """Only with proof of possession of this key: its RFC 7638 thumbprint (SHA-256, base64url, 43 characters)."""

    thumbprint: str

    def __post_init__(self) -> None:
        _check_bytes(self.thumbprint, 32)


class Bind(Caveat, frozen=True, tag="bind"):
    """In a discharge: valid only together with this branch (16 bytes, base64url). In a root macaroon it denies."""

    branch: str

    def __post_init__(self) -> None:
        _check_bytes(self.branch, 16)

    @classmethod
    def from_branch(cls, branch: bytes) -> Bind:
        """Return the caveat that binds to ``branch``."""
        return cls(b64url(branch))


class Usr(Caveat, frozen=True, tag="usr"):
    """A fact, in a discharge: the user that the third party authenticated."""

    fact = True
    user: str

    def __post_init__(self) -> None:
        _check_text(self.user)


class Org(Caveat, frozen=True, tag="org"):
    """A fact, in a discharge: the organization of the user, as the third party states it."""

    fact = True
    organization: str

    def __post_init__(self) -> None:
        _check_text(self.organization)


class App(msgspec.Struct, frozen=True):
    """``x:NAME``: a caveat that an app defines. It is cleared by the checker that the app registers under NAME.

    ``value`` is text, an integer, a bool, or a flat list or map of text and integers. Lists and maps are converted to
    immutable ones.
    """

    fact: ClassVar[bool] = False
    name: str
    value: Any

    def __post_init__(self) -> None:
        if not is_app_name(self.name):
            raise InvalidCaveat("an app's caveat has a bad name", hint="use a-z, 0-9, dots, dashes and underscores")
        if isinstance(self.value, list | dict):
            msgspec.structs.force_setattr(self, "value", _immutable(self.value))


def is_kind(name: str) -> bool:
    """Return True if a caveat can name this kind of resource."""
    return _KIND(name) is not None


def is_app_name(name: object) -> bool:
    """Return True if ``x:NAME`` can be an app's own caveat."""
    return isinstance(name, str) and _NAME(name) is not None


Standard = Nbf | Exp | Act | Res | Pre | If | Aud | Sub | Ip | Src | Req | Cnf | Bind | Usr | Org
AnyCaveat = Standard | App
"""Every caveat that this version can read."""

_AppValue = Integer | bool | str | list[Integer | str] | dict[str, Integer | str]


def _plain(value: Any) -> Any:
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise TypeError


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_decode_standard = msgspec.json.Decoder(Standard).decode
_decode_app = msgspec.json.Decoder(tuple[str, _AppValue]).decode
_APP_HEAD: Final = b'["x:'
_KEPT_BYTES: Final = 128
"""The longest id whose decoded caveat is kept. A decoded caveat takes up to 20 times the memory of its id, and a token
that never verifies is decoded too: so the memo's memory is bounded by the ids' lengths as well as by their number."""


def encode(caveat: AnyCaveat) -> bytes:
    """Return the caveat's id.

    Raises:
        InvalidCaveat: a field has a type or value that no reader would accept.
    """
    try:
        cid = written(caveat)
        # A reader must get the same caveat back, because the JSON encoder accepts some wrong types as if they were
        # right.
        good = (_kept(cid) if len(cid) <= _KEPT_BYTES else _decode(cid)) == caveat
    except (TypeError, ValueError, OverflowError, RecursionError, UnknownCaveat):
        good = False
    if not good:
        raise InvalidCaveat(f"{type(caveat).__name__} has a field of a wrong type or value")
    return cid


def written(caveat: AnyCaveat) -> bytes:
    """Return the id of a caveat that was decoded or encoded before. Unlike ``encode``, it doesn't check the fields."""
    return _encode(["x:" + caveat.name, caveat.value] if isinstance(caveat, App) else caveat)


def decode(cid: bytes) -> AnyCaveat:
    """Return the caveat whose id is ``cid``.

    Raises:
        UnknownCaveat: the tag is unknown, or the caveat isn't in its only accepted form.
    """
    return _decode(cid)


def decode_all(packets: Sequence[Packet]) -> tuple[AnyCaveat | ThirdParty, ...]:
    """Return the typed caveats of a token. Each first-party caveat is decoded as by ``decode``; third-party caveats are
    returned unchanged.

    Raises:
        UnknownCaveat: as ``decode``.
    """
    return tuple(
        [
            _kept(packet) if type(packet) is bytes and len(packet) <= _KEPT_BYTES else _typed(packet)
            for packet in packets
        ]
    )


def _typed(packet: Packet) -> AnyCaveat | ThirdParty:
    return packet if isinstance(packet, ThirdParty) else _decode(packet)


def _decode(cid: bytes) -> AnyCaveat:
    try:
        if cid.startswith(_APP_HEAD):
            tag, value = _decode_app(cid)
            if _encode([tag, value]) == cid:
                return App(tag[2:], value)
        else:
            caveat: Standard = _decode_standard(cid)
            if _encode(caveat) == cid:
                return caveat
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidCaveat) as error:
        raise UnknownCaveat(f"a caveat can't be read: {_reason(error)}") from None
    except RecursionError:
        raise UnknownCaveat("a caveat can't be read: it is nested too deeply") from None
    raise UnknownCaveat("a caveat can't be read: it is not in its shortest JSON form")


# This is a pure function on the hot path, called with few distinct arguments.
_kept = lru_cache(maxsize=8192)(_decode)


def _reason(error: Exception) -> str:
    return str(error).split(" - at", 1)[0]


def _immutable(value: Any) -> Any:
    return MappingProxyType(dict(value)) if isinstance(value, dict) else tuple(value)


def _check_actions(actions: str) -> None:
    if not isinstance(actions, str) or actions not in _MASKS:
        raise InvalidCaveat("its actions are not letters out of rwcdC, in that order", hint="write rw, not wr")


def _make_tuple(caveat: Ip | Req, name: str) -> None:
    """Make a field's texts immutable. A reader's are already."""
    texts = getattr(caveat, name)
    if type(texts) is tuple and texts:
        return
    if not isinstance(texts, list) or not texts:
        raise InvalidCaveat(f"the {name} are not a list of texts", hint="name at least one, in a list")
    msgspec.structs.force_setattr(caveat, name, tuple(texts))


def _check_text(text: str) -> None:
    if not isinstance(text, str) or not text or not text.isprintable():
        raise InvalidCaveat("a text is empty or has control characters", hint="write it in printable characters")


def _check_bytes(text: str, size: int) -> None:
    try:
        good = isinstance(text, str) and len(b64url_bytes(text.encode("ascii", "replace"))) == size
    except ArmorError:
        good = False
    if not good:
        raise InvalidCaveat(f"a field is not {size} bytes in base64url")


def _check_grants(caveat: Res | Pre) -> None:
    if not isinstance(caveat.kind, str) or not is_kind(caveat.kind):
        raise InvalidCaveat("a kind of resource is not a short ASCII name", hint='write "app", for example')
    if not isinstance(caveat.ids, Mapping) or not caveat.ids:
        raise InvalidCaveat("no resource is named", hint="name one, or * for any")
    for name, actions in caveat.ids.items():
        _check_text(name)
        _check_actions(actions)
    msgspec.structs.force_setattr(caveat, "ids", MappingProxyType(dict(caveat.ids)))


def _literal(segment: str) -> bool:
    return segment not in {".", ".."} and _SEGMENT(segment) is not None
