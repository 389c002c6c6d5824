"""The tools of an attacker: packets written by hand, in any order and of any length. Also an authority to attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tkdb.macaroon.caveats import Act, AnyCaveat, Exp
from tkdb.macaroon.chain import RootKeyState, link, walk
from tkdb.macaroon.identifier import KID_BYTES, build
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import Key, Revoked, Verifier
from tkdb.macaroon.wire import ThirdParty, write_caveat, write_third_party

NAME = "tkdb.example"
KID = b"k" * KID_BYTES
ROOT_KEY = b"r" * 32
NOW_MS = 1_700_000_000_000
SIGNATURE = b"s" * 32
VID = b"v" * 72
IDENTIFIER = build(kid=KID, time_ms=NOW_MS, random=bytes(10), m=0)
LOCATION, IDENTIFIED, VERIFIED, SIGNED = 1, 2, 4, 6


def varint(size: int, at_least: int = 1) -> bytes:
    """Return a length in LEB128, padded to at least ``at_least`` bytes. Only an attacker pads."""
    out: list[int] = []
    while size > 127 or len(out) < at_least - 1:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size])


def field(kind: int, value: bytes, *, length_bytes: int = 1) -> bytes:
    return bytes([kind]) + varint(len(value), length_bytes) + value


def section(*fields: bytes) -> bytes:
    return b"".join(fields) + b"\x00"


def first_party(cid: bytes = b"caveat") -> bytes:
    return section(field(IDENTIFIED, cid))


def third_party(location: bytes = b"elsewhere", ticket: bytes = b"ticket", vid: bytes = VID) -> bytes:
    return section(field(LOCATION, location), field(IDENTIFIED, ticket), field(VERIFIED, vid))


HEADER = section(field(LOCATION, NAME.encode()), field(IDENTIFIED, IDENTIFIER))


def macaroon(*sections: bytes, header: bytes = HEADER, signature: bytes = field(SIGNED, SIGNATURE)) -> bytes:
    """Return the bytes of a macaroon with these sections. By default it is well formed, with an invalid signature."""
    return b"\x02" + header + b"".join(sections) + b"\x00" + signature


def write_packets(location: bytes, identifier: bytes, packets: Any, signature: bytes) -> bytes:
    """Return the only valid encoding of these parts."""
    sections = [write_third_party(p) if isinstance(p, ThirdParty) else write_caveat(p) for p in packets]
    header = section(field(LOCATION, location), field(IDENTIFIED, identifier))
    return macaroon(*sections, header=header, signature=field(SIGNED, signature))


def with_third_party(token: Macaroon, caveat: ThirdParty) -> Macaroon:
    """Return the token with an appended third-party caveat. Any holder can append one."""
    raw = token.raw[:-35] + write_third_party(caveat) + token.raw[-35:-32] + walk(token.tail, [caveat])[-1]
    return Macaroon.parse(raw)


def with_packets(token: Macaroon, *cids: bytes) -> Macaroon:
    """Return the token with appended first-party caveats. Any holder can append any bytes."""
    raw = token.raw[:-35] + b"".join(map(write_caveat, cids)) + token.raw[-35:-32] + walk(token.tail, cids)[-1]
    return Macaroon.parse(raw)


def mutations(raw: bytes) -> Iterator[bytes]:
    """Yield small changes of ``raw``: at each offset flips, insertions, deletions, repetitions and splices."""
    size = len(raw)
    for at in range(size):
        for bit in range(8):
            yield raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
        yield raw[:at]
        for end in {at + 1, at + 2, at + 7, size}:
            yield raw[:at] + raw[end:]
            yield raw[:at] + raw[at:end] + raw[at:]
        for new in (b"\x00", b"\x02", b"\x80", b"\x80\x00", b"\x02\x01x\x00", b"\x06\x20"):
            yield raw[:at] + new + raw[at:]
            yield raw[:at] + new + raw[at + len(new) :]
        yield raw[:at] + raw[size // 2 :]
        yield raw[size // 2 :] + raw[:at]


class Authority:
    """An authority of one organization, in memory. The test writes its revocations."""

    def __init__(self) -> None:
        self.keys = {KID: Key("acme", RootKeyState(ROOT_KEY))}
        self.revoked: dict[bytes, Revoked] = {}
        self.verifier = Verifier(NAME, find_key=self.keys.get, find_revocation=self.revoked.get)

    def mint(
        self, *caveats: AnyCaveat, time_ms: int = NOW_MS, kid: bytes = KID, root_key: bytes = ROOT_KEY
    ) -> Macaroon:
        """Return a token with these caveats, or with two plain ones if none are given."""
        return mint(
            NAME, root_key, kid=kid, time_ms=time_ms, random=b"randomness",
            caveats=caveats or (Exp(NOW_MS // 1000 + 3600), Act("rw")),
        )  # fmt: skip

    def verify(self, token: Macaroon | str | bytes) -> Any:
        return self.verifier.verify(token.text if isinstance(token, Macaroon) else token, NOW_MS)


def sign(root_key: bytes, identifier: bytes, *cids: bytes) -> bytes:
    """Return the tail of a chain of first-party caveats, computed without the prepared states."""
    tail = link(link(b"macaroons-key-generator".ljust(32, b"\0"), root_key), identifier)
    for cid in cids:
        tail = link(tail, cid)
    return tail
