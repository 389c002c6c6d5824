"""Readers of bytes from token holders: text, wire format, caveats, bundles; and clearing with the text of requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.fuzz.target import Target
from tests.macaroon.forge import NOW_MS, Authority, first_party, third_party, with_third_party, write_packets
from tests.macaroon.forge import macaroon as hand_made
from tkdb.armor import ArmorError, Stem, armor, b64url, b64url_bytes, dearmor
from tkdb.errors import (
    BadSignature,
    CaveatUnmet,
    ConfigurationError,
    Denied,
    ExpiredToken,
    MalformedToken,
    NotYetValid,
    OverLimit,
    UnknownCaveat,
)
from tkdb.macaroon.access import ANY, Access, Policy, Source
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import (
    Act,
    AnyCaveat,
    App,
    Aud,
    Cnf,
    Exp,
    If,
    Ip,
    Nbf,
    Pre,
    Req,
    Res,
    Src,
    Sub,
    decode,
    encode,
)
from tkdb.macaroon.chain import walk
from tkdb.macaroon.clearing import clear, explain
from tkdb.macaroon.descent import go_on
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import PREFIX, TRAILER_BYTES, ThirdParty, decode_rest, encode_text, read, write_caveat

CAVEATS: Sequence[AnyCaveat] = (
    Exp(NOW_MS // 1000 + 60), Nbf(5), Act("rw"), Res("app", {"shop": "rw", "blog": "r"}), Res("app", {"*": "r"}),
    Pre("object", {"*": "r", "logs/": "rd"}), If((Res("app", {"shop": "r"}), Pre("object", {"a": "r"})), "c"),
    Aud("billing"), Ip(("10.0.0.0/8", "2001:db8::/32")), Src("acme", "shop", None), Req(("GET",), ("/v1/*", "/a/**")),
    Cnf("A" * 43), App("tier", "gold"), App("tier", {"a": 1}), App("tier", [1, "two"]),
)  # fmt: skip
CIDS = [encode(caveat) for caveat in CAVEATS]
TAGS = "nbf exp act res pre if aud sub ip src req cnf bind usr org x:tier".split()  # noqa: SIM905 - shorter
JSON_WORDS = (
    *rb'''" [ ] [] {} {"a": } , null true 1.0 -0 -1 1e9 9007199254740992 \u0000 \ud800 \n "x:a" "*"'''.split(),
    *(f'["{tag}",'.encode() for tag in TAGS),
    b" ", b"\xc3\xa9", b"\xe2\x80\xae", b"[" * 99, b'["res","app",{"a":"r"}]',
)  # fmt: skip
WIRE_WORDS = (
    b"\x02\x01x\x00", b"\x00\x06\x20", b"\x01\x01l", b"\x04\x48" + b"v" * 72, b"\x80\x00", b"\x80\x01", b"\xff\x7f",
    b"\xff\xff\xff\x7f", b"\x02\x80\x01", first_party(b"c" * 130), third_party(), *map(write_caveat, CIDS[:4]),
)  # fmt: skip
TEXT_WORDS = (
    b"tkdb_",
    b",",
    b"=",
    b"==",
    b" ",
    b"\n",
    b"-",
    b"_",
    b"+",
    b"Bearer ",
    b"\xc3\xa9",
    b"Ag",
    b"\xed\xa0\x80",
)
FIELD = b"\x1e"

AUTHORITY = Authority()
TOKEN = AUTHORITY.mint(CAVEATS[0], Sub("kim"))
THIRD = ThirdParty(b"https://login.example", b"ticket", b"v" * 72)
TOKENS = [
    TOKEN,
    TOKEN.narrow(*CAVEATS[2:6]),
    with_third_party(TOKEN, THIRD),
    TOKEN.narrow(App("long", "a" * 300)),
]
TOKEN_BYTES = len(TOKEN.raw) - TRAILER_BYTES
STEM = Stem.from_bytes(PREFIX, TOKEN.raw[:TOKEN_BYTES])
RESTS = [token.text[len(STEM.text) : -6].encode() for token in TOKENS]
POLICY = Policy(
    organization="acme",
    clock=lambda: NOW_MS / 1000,
    audience="billing",
    checkers={"tier": lambda value, _: bool(value) or True},
)


def text_of(data: bytes) -> str:
    """Return any text, also with lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def read_text(data: bytes) -> None:
    text = text_of(data)
    token = Macaroon.parse(text)
    assert text in {token.text, b64url(token.raw)}
    assert Macaroon.parse(token.raw) == token


def read_wire(data: bytes) -> None:
    location, identifier, packets = read(data)
    assert write_packets(location, identifier, packets, data[-32:]) == data


def read_caveat(data: bytes) -> None:
    assert encode(decode(data)) == data


def read_header(data: bytes) -> None:
    bundle = Bundle.from_header(text_of(data))
    assert Bundle.parse(bundle.text) == bundle


def verify_text(data: bytes) -> None:
    verified = AUTHORITY.verify(text_of(data))
    assert verified.macaroon.raw in {token.raw for token in TOKENS}


def verify_appended(data: bytes) -> None:
    """Append packets as a holder can: any bytes, each with the correct link of the chain."""
    cids = data.split(FIELD)
    tail = walk(TOKEN.tail, cids)[-1]
    raw = TOKEN.raw[:-35] + b"".join(map(write_caveat, cids)) + TOKEN.raw[-35:-32] + tail
    verified = AUTHORITY.verify(raw)
    assert verified.subject == "kim"
    assert verified.caveats[2:] == tuple(map(decode, cids))
    clear("acme", verified.caveats, Access(action="r", resource={"app": "shop"}, method="GET", path="/v1/a"), POLICY)


def read_armor(data: bytes) -> None:
    text = text_of(data)
    assert armor(PREFIX, dearmor(PREFIX, text)) == text


def read_sealed_armor(data: bytes) -> None:
    """Read any body with a correct checksum."""
    body = PREFIX + data.decode("ascii", "replace").replace("\ufffd", "?")
    text = body + armor(body, b"")[len(body) :]
    assert armor(PREFIX, dearmor(PREFIX, text)) == text
    assert b64url(b64url_bytes(body[5:].encode())) == body[5:]


def read_descendant(data: bytes) -> None:
    """Read a descendant of a known token by its added part only: the result equals that of reading the whole text."""
    body = STEM.text + data.decode("ascii", "replace").replace("\ufffd", "?")
    text = body + armor(body, b"")[len(body) :]
    try:
        whole: Macaroon | Denied = Macaroon.parse(text)
    except Denied as error:
        whole = error
    try:
        rest = decode_rest(STEM, text)
        if rest is None:
            return
        packets, tails = go_on(rest, TOKEN.tail, known=len(TOKEN.packets), known_bytes=TOKEN_BYTES)
    except Denied as error:
        if not isinstance(whole, Macaroon if isinstance(error, BadSignature) else type(error)):
            raise AssertionError(f"the whole text is read as {whole!r}") from error
        raise
    assert isinstance(whole, Macaroon)
    assert (whole.raw, whole.packets) == (TOKEN.raw[:TOKEN_BYTES] + rest, (*TOKEN.packets, *packets))
    assert tails == walk(TOKEN.tail, packets)


def read_bytes(data: bytes) -> None:
    assert Macaroon.parse(data).raw == data


def denial(caveat: AnyCaveat, access: Access) -> str:
    try:
        clear("acme", (caveat,), access, POLICY)
    except (CaveatUnmet, ExpiredToken, NotYetValid) as error:
        return error.message
    return ""


def clear_access(data: bytes) -> str:
    """Clear all kinds of caveats against an access that is made of any text."""
    fields = [*map(text_of, data.split(FIELD)), *[""] * 10][:10]
    action, kind, wanted, method, path, ip, organization, app, thumbprint, rest = fields
    named: Any = {"": None, "ANY": ANY}.get(wanted, wanted)
    try:
        access = Access(
            action=action or None, resource={kind: named}, method=method or None, path=path or None, ip=ip or None,
            source=Source(organization=organization, app=app), key_thumbprint=thumbprint, now_s=float(len(rest)) * 1e8,
        )  # fmt: skip
    except ConfigurationError:
        return "no access"  # an app's mistake: an action or a kind that no token can name
    reasons = explain(CAVEATS, access, POLICY)
    for caveat, why in zip(CAVEATS, reasons, strict=True):
        message = denial(caveat, access)
        assert bool(message) == bool(why), caveat
        assert message.endswith(why or ""), caveat
    return ",".join(why[:20] if why else "" for why in reasons)


ACCESSES = [
    FIELD.join(fields)
    for fields in [
        (b"r", b"app", b"shop", b"GET", b"/v1/a", b"10.0.0.1", b"acme", b"shop", b"A" * 43, b"xxxxxxxxxxxxxxxx"),
        (b"rd", b"object", b"logs/x", b"PUT", b"/a/b/c", b"::ffff:10.0.0.1", b"", b"", b"", b""),
        (b"c", b"db", b"ANY", b"get", b"/v1/%2e%2e/a", b"fe80::1%eth0", b"acme", b"", b"", b"x"),
    ]
]
PATH_WORDS = (
    *rb"// /../ /./ /..;/ %2f %2E %00 %25 \ ? # * ** /v1/ :: % ANY 10. ::ffff: rwcdC".split(), FIELD, b"\xc3\xa9",
)  # fmt: skip
HEADERS = [f"Bearer {token.text}".encode() for token in TOKENS] + [
    f"Bearer {TOKEN.text},{encode_text(hand_made(first_party()))}".encode()
]
TEXTS = [token.text.encode() for token in TOKENS]
BARE = [b64url(TOKEN.raw).encode()]

TARGETS = [
    Target("token-text", read_text, (Denied,), TEXTS + BARE, TEXT_WORDS),
    Target("wire", read_wire, (MalformedToken, OverLimit), [token.raw for token in TOKENS], WIRE_WORDS),
    Target("bytes", read_bytes, (Denied,), [token.raw for token in TOKENS], WIRE_WORDS),
    Target("caveat", read_caveat, (UnknownCaveat,), CIDS, JSON_WORDS),
    Target("header", read_header, (Denied,), HEADERS, TEXT_WORDS),
    Target("verify", verify_text, (Denied,), TEXTS[:2] + BARE, TEXT_WORDS),
    Target("verify-appended", verify_appended, (Denied,), [*CIDS, FIELD.join(CIDS[2:5])], (FIELD, *JSON_WORDS)),
    Target("descent", read_descendant, (Denied,), RESTS, TEXT_WORDS),
    Target("armor", read_armor, (ArmorError,), TEXTS, TEXT_WORDS),
    Target("armor-sealed", read_sealed_armor, (ArmorError,), [b"AgAA", b"", b"AA", b"AAA", b"-_-_"], TEXT_WORDS),
    Target("clearing", clear_access, (), ACCESSES, PATH_WORDS),
]
