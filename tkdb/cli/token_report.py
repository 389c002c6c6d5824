"""The display of a token: never its signature, and always a mark if the token is unverified. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tkdb.cli.formatting import brief, distance, moment, place, read, tag, text, words
from tkdb.cli.output import Cell, Marked, Rows, bad, faint, good
from tkdb.errors import CaveatUnmet, Denied, MalformedToken
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Exp, Org, Sub, Usr
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import Packet, ThirdParty, decode_text
from tkdb.macaroon.wire import read as read_macaroon

Trial = str | None
"""The reason why a caveat denies, or None if it clears."""

_SIGN: Final[dict[bool, Cell]] = {True: good("✓"), False: bad("✗")}
_SCHEME: Final = "bearer "
_ASK: Final = "ask for a new token"


def root_of(presented: str) -> Macaroon:
    """Return the root in a presented text: a token, a bundle, or the value of an Authorization header.

    Raises:
        TruncatedToken, MalformedToken, OverLimit: it can't be read.
    """
    return Bundle.parse(_bare(presented)).root


def _bare(presented: str) -> str:
    return presented[len(_SCHEME) :].strip() if presented[: len(_SCHEME)].lower() == _SCHEME else presented


class Shown(msgspec.Struct, frozen=True):
    """One macaroon of a bundle, as read. ``root`` is None for a discharge or for another system's macaroon."""

    location: bytes
    identifier: bytes
    packets: Sequence[Packet]
    size: int
    root: Macaroon | None

    @classmethod
    def parse(cls, presented: str) -> list[Shown]:
        """Return the macaroons in the text of a token, a bundle or a header.

        Raises:
            TruncatedToken, MalformedToken, OverLimit: a macaroon can't be read.
        """
        return [cls._one(part.strip()) for part in _bare(presented).split(",")[:64]]

    @classmethod
    def _one(cls, part: str) -> Shown:
        raw = decode_text(part)
        location, identifier, packets = read_macaroon(raw)
        try:
            root = Macaroon.parse(raw)
        except MalformedToken:
            root = None
        return cls(location, identifier, packets, len(raw), root)

    def rows(self, now_s: float) -> Rows:
        """Return the fields of the macaroon."""
        where = self.location[:200].decode("ascii", "backslashreplace")
        sizes = f"{self.size:,} bytes, {len(self.packets)} caveats"
        root = self.root
        if root is None:
            kind = "a discharge, or another system's macaroon"
            return Rows([("location", where), ("kind", kind), ("identifier", text(self.identifier)), ("size", sizes)])
        added = len(self.packets) - root.m
        kind = "as minted" if not added else f"narrowed: {added} of its caveats were added by holders"
        return Rows(
            [
                ("authority", where),
                ("kind", kind),
                ("key", root.kid.hex()),
                ("lineage", root.lineage.hex()),
                ("branch", root.branch.hex()),
                ("minted", _minted(root, now_s)),
                ("size", sizes),
            ]
        )

    def caveats(self, now_s: float) -> Rows:
        """Return the caveats, numbered, each with its author, its tag and its meaning."""
        m = self.root.m if self.root else 0
        return Rows(
            [
                (str(index), "authority" if index <= m else "holder", tag(packet), *_meaning(packet, now_s))
                for index, packet in enumerate(self.packets, 1)
            ],
            header=("#", "WRITTEN BY", "TAG", "MEANS") if self.packets else (),
        )

    def document(self, now_s: float) -> dict[str, Any]:
        """Return the macaroon for JSON."""
        root = self.root
        ids = {} if root is None else _ids(root)
        return {
            "location": self.location.decode("ascii", "backslashreplace"),
            "root": root is not None,
            **ids,
            "bytes": self.size,
            "caveats": [
                {**_caveat(index, packet, now_s), "by": "authority" if root and index <= root.m else "holder"}
                for index, packet in enumerate(self.packets, 1)
            ],
        }


def _meaning(packet: Packet, now_s: float) -> tuple[Cell]:
    caveat = read(packet)
    if isinstance(caveat, str):
        return (Marked(f"{caveat}: {text(packet)}", "yellow"),)
    return (words(caveat, now_s=now_s),)


def _caveat(index: int, packet: Packet, now_s: float) -> dict[str, Any]:
    caveat = read(packet)
    meaning = caveat if isinstance(caveat, str) else words(caveat, now_s=now_s)
    location = {"location": place(packet)} if isinstance(packet, ThirdParty) else {}
    return {"index": index, "tag": tag(packet), "text": text(packet), "means": meaning, **location}


def _ids(root: Macaroon) -> dict[str, Any]:
    return {
        "kid": root.kid.hex(),
        "nonce": root.nonce.hex(),
        "lineage": root.lineage.hex(),
        "branch": root.branch.hex(),
        "minted_ms": root.issued_ms,
        "expires_s": expiry(root),
        "m": root.m,
        "narrowed": not root.minted,
    }


def expiry(root: Macaroon) -> int | None:
    """Return the time at which the token expires by its own caveats, in Unix seconds."""
    return min((each.at_s for packet in root.packets if isinstance(each := read(packet), Exp)), default=None)


def summary(root: Macaroon, organization: str | None, now_s: float) -> str:
    """Return a token in one line: its organization, its lineage, its age, and the time that is left."""
    ends = expiry(root)
    parts = [
        organization or f"of {root.authority[:200]}, unverified",
        f"lineage {root.nonce.hex()[:12]}…",
        f"minted {distance(root.issued_ms / 1000 - now_s)}",
    ]
    if ends is not None:
        parts.append(f"{'expires' if ends >= now_s else 'expired'} {distance(ends - now_s)}")
    return " · ".join(parts)


def _minted(root: Macaroon, now_s: float) -> str:
    return f"{moment(root.issued_ms / 1000)} ({distance(root.issued_ms / 1000 - now_s)})"


def trials(root: Macaroon, trials: Sequence[Trial], now_s: float) -> Rows:
    """Return every caveat of a decision, each with the reason if it denies."""
    rows: list[Sequence[Cell]] = []
    for index, (packet, why) in enumerate(zip(root.packets, trials, strict=True), 1):
        rows.append((_SIGN[why is None], str(index), tag(packet), *_meaning(packet, now_s), faint(why or "")))
    return Rows(rows, header=("", "#", "TAG", "MEANS", "WHY NOT") if rows else ())


def trial_documents(root: Macaroon, trials: Sequence[Trial], now_s: float) -> list[dict[str, Any]]:
    """Return the caveats of a decision, as ``trials`` does, for JSON."""
    return [
        {**_caveat(index, packet, now_s), "cleared": why is None, "why": why}
        for index, (packet, why) in enumerate(zip(root.packets, trials, strict=True), 1)
    ]


def misplaced(root: Macaroon, index: int, packet: Packet) -> Trial:
    """Return the reason if a caveat denies every access, because of its kind or its place."""
    caveat = read(packet)
    if isinstance(caveat, str):
        return caveat
    if isinstance(caveat, ThirdParty):
        return f"it needs a discharge from {place(caveat)}, and discharges are not replayed here"
    if isinstance(caveat, Usr | Org) or (isinstance(caveat, Sub) and index > root.m):
        return f"it states a fact, but only the first {root.m} are the authority's own words"
    return None


def denial(denied: Denied, root: Macaroon | None, organization: str | None, why: str, now_s: float) -> list[Any]:
    """Return a denial for people: the caveat with the reason, the token, and the next step."""
    rows: list[Sequence[Cell]] = []
    if root is not None and denied.caveat is not None and 0 < denied.caveat <= len(root.packets):
        shown = brief(root.packets[denied.caveat - 1])
        rows.append((f"caveat {denied.caveat} of {len(root.packets)}", f"{shown}   {why}"))
    else:
        rows.append(("why", why))
    if root is not None:
        rows.append(("token", summary(root, organization, now_s)))
    otherwise = "ask for a token that allows it, or attempt less" if isinstance(denied, CaveatUnmet) else _ASK
    rows.append(("try", denied.hint or otherwise))
    return [bad(f"denied: {denied.reason.value}"), Rows(rows, indent=2)]


def verdict(
    root: Macaroon | None, organization: str | None, denied: Denied | None, *, cleared: bool, now_s: float
) -> dict[str, Any]:
    """Return a verification for JSON."""
    packets = () if root is None else root.packets
    return {
        "verified": organization is not None,
        "cleared": cleared,
        "organization": organization,
        **({} if root is None else _ids(root)),
        "caveats": [_caveat(index, packet, now_s) for index, packet in enumerate(packets, 1)],
        "denied": None if denied is None else _denied(denied),
    }


def _denied(denied: Denied) -> dict[str, Any]:
    return {
        "reason": denied.reason.value,
        "message": denied.message,
        "hint": denied.hint,
        "caveat": denied.caveat,
    }
