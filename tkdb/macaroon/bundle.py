"""The tokens of one Authorization header: one root macaroon, and the discharges that it needs.

The root comes first; discharges follow in any order, separated by commas.

>>> from tkdb.macaroon.identifier import build
>>> from tkdb.macaroon.wire import encode_text, write
>>> raw = write(b"tkdb.example", build(kid=b"k" * 16, time_ms=0, random=bytes(10), m=0), [], bytes(32))
>>> Bundle.from_header("Bearer " + encode_text(raw)).root.authority
'tkdb.example'
"""

from __future__ import annotations

from typing import Self

import msgspec

from tkdb.arguments import reject
from tkdb.errors import MalformedToken, OverLimit
from tkdb.macaroon.limits import DEFAULT, Limits
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import decode_text, encode_text, read

_SCHEME = "bearer "


class Bundle(msgspec.Struct, frozen=True):
    """A root macaroon and the bytes of its discharges, as read. Nothing is verified yet."""

    root: Macaroon
    discharges: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, text: str | bytes, limits: Limits = DEFAULT) -> Self:
        """Read a bundle's text (tokens, comma-separated), or one token as bytes.

        Raises:
            TruncatedToken, MalformedToken, OverLimit: as ``read_bundle``.
        """
        return cls(*read_bundle(text, limits))

    @classmethod
    def from_header(cls, value: str, limits: Limits = DEFAULT) -> Self:
        """Read the value of an Authorization header: ``Bearer``, then the bundle.

        Raises:
            MalformedToken: the scheme isn't Bearer; or as ``parse``.
            TruncatedToken, OverLimit: as ``parse``.
        """
        if not isinstance(value, str):
            reject("value", value, "is not the value of a header", "pass its text")
        if value[: len(_SCHEME)].lower() != _SCHEME:
            raise MalformedToken("the Authorization header's scheme is not Bearer")
        return cls.parse(value[len(_SCHEME) :].strip(" "), limits)

    @property
    def text(self) -> str:
        """The bundle as text. It is a secret."""
        return ",".join(map(encode_text, (self.root.raw, *self.discharges)))

    def __repr__(self) -> str:
        return f"Bundle({self.root!r}, {len(self.discharges)} discharges)"


def read_bundle(text: str | bytes, limits: Limits = DEFAULT) -> tuple[Macaroon, tuple[bytes, ...]]:
    """Return the root of a bundle's text, and the bytes of its discharges.

    Raises:
        TruncatedToken, MalformedToken: one of the tokens can't be read.
        OverLimit: the bundle has more bytes, tokens or caveats than the limits allow.
    """
    if not isinstance(text, str) or "," not in text:
        return Macaroon.parse(text, limits), ()
    if len(text) > 2 * limits.bundle_bytes:
        raise OverLimit(f"this bundle has {len(text)} characters; at most {limits.bundle_bytes} bytes are read")
    first, *rest = (token.strip(" ") for token in text.split(","))
    if len(rest) > limits.discharges:
        raise OverLimit(f"this bundle has {len(rest)} discharges; at most {limits.discharges} are read")
    root = Macaroon.parse(first, limits)
    discharges = tuple(decode_text(token, limits) for token in rest)
    for raw in discharges:
        read(raw, limits)
    if len(root.raw) + sum(map(len, discharges)) > limits.bundle_bytes:
        raise OverLimit(f"this bundle has more than the {limits.bundle_bytes} bytes that are read")
    return root, discharges
