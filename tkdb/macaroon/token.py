"""A root macaroon: read it, and attenuate it offline.

>>> from tkdb.macaroon.caveats import Act
>>> from tkdb.macaroon.identifier import build
>>> from tkdb.macaroon.wire import write
>>> raw = write(b"tkdb.example", build(kid=b"k" * 16, time_ms=0, random=bytes(10), m=0), [], bytes(32))
>>> token = Macaroon.parse(raw)
>>> child = token.narrow(Act("r"))
>>> child.caveats
(Act(actions='r'),)
>>> Macaroon.parse(child.text) == child
True
>>> child
Macaroon(tkdb.example, lineage 6b6b6b6b…/000000000000…, 1 caveat, m 0)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Self, Unpack

import msgspec

from tkdb.arguments import Duration, reject
from tkdb.errors import MalformedToken, OverLimit
from tkdb.macaroon.caveats import AnyCaveat, Exp, decode_all, encode
from tkdb.macaroon.chain import branch, walk
from tkdb.macaroon.identifier import IDENTIFIER_BYTES, ISSUED, KID, LINEAGE, NONCE, VERSION, M
from tkdb.macaroon.limits import DEFAULT, Limits
from tkdb.macaroon.restrictions import Restrictions, appendable, expiry_s, written
from tkdb.macaroon.wire import SIGNATURE_BYTES, Packet, ThirdParty, append, decode_text, encode_text, read

_TEXTS: Final = (str, bytes)


class Macaroon(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """A root macaroon of an authority, as read: its structure is checked, and nothing is verified.

    It is immutable. It is a secret, because anyone who holds it can use it. Its repr and str therefore don't show it;
    only ``text`` does.
    """

    raw: bytes
    location: bytes
    identifier: bytes
    packets: tuple[Packet, ...]

    @classmethod
    def parse(cls, token: str | bytes, limits: Limits = DEFAULT) -> Self:
        """Read a token: armored text, or bare v2 as bytes or base64url.

        Raises:
            TruncatedToken, MalformedToken, OverLimit: as in ``tkdb.macaroon.wire``.
            ConfigurationError: it is neither text nor bytes.
        """
        if not isinstance(token, _TEXTS):
            reject("token", token, "is not a token", "pass its text, or the bytes of a macaroon")
        raw = decode_text(token, limits)
        location, identifier, packets = read(raw, limits)
        if len(identifier) != IDENTIFIER_BYTES or identifier[0] != VERSION:
            raise MalformedToken("the identifier is not one of a tkdb authority", hint="is it a discharge?")
        if identifier[M] > len(packets):
            raise MalformedToken("caveats that the authority wrote are missing")
        return cls(raw, location, identifier, tuple(packets))

    @property
    def text(self) -> str:
        """The token as text: ``tkdb_…``. It is a secret."""
        return encode_text(self.raw)

    @property
    def authority(self) -> str:
        """The name of the authority in the token's location. Only verification authenticates it."""
        return self.location.decode("ascii", "backslashreplace")

    @property
    def kid(self) -> bytes:
        """The root key's name: 16 bytes."""
        return self.identifier[KID]

    @property
    def nonce(self) -> bytes:
        """The lineage's nonce: 16 bytes."""
        return self.identifier[NONCE]

    @property
    def lineage(self) -> bytes:
        """The kid and the nonce: 32 bytes, which name the lineage everywhere."""
        return self.identifier[LINEAGE]

    @property
    def issued_ms(self) -> int:
        """The time when the lineage began: milliseconds since 1970."""
        return int.from_bytes(self.identifier[ISSUED])

    @property
    def m(self) -> int:
        """The number of caveats, from the first, that the authority wrote."""
        return self.identifier[M]

    @property
    def tail(self) -> bytes:
        """The end of the chain: the signature, 32 bytes. It is a secret."""
        return self.raw[-SIGNATURE_BYTES:]

    @property
    def branch(self) -> bytes:
        """The name of this token and all tokens attenuated from it: 16 bytes, safe to show."""
        return branch(self.tail)

    @property
    def minted(self) -> bool:
        """True if the token is exactly as the authority minted it: nobody has attenuated it."""
        return len(self.packets) == self.m

    @property
    def caveats(self) -> tuple[AnyCaveat | ThirdParty, ...]:
        """The caveats, typed.

        Raises:
            UnknownCaveat: this version can't read one.
        """
        return decode_all(self.packets)

    def extend(self, caveats: Iterable[AnyCaveat], limits: Limits = DEFAULT) -> Self:
        """Return the token with ``caveats`` after its present ones. Unlike ``narrow``, it allows facts, because
        minting uses it.

        Raises:
            InvalidCaveat, OverLimit: as ``narrow``.
        """
        cids = tuple(map(encode, caveats))
        packets = self.packets + cids
        raw = append(self.raw, cids, walk(self.raw[-SIGNATURE_BYTES:], cids)[-1])
        if len(packets) > limits.caveats or len(raw) > limits.token_bytes:
            raise OverLimit(
                f"the token would have {len(packets)} caveats and {len(raw)} bytes; "
                f"{limits.caveats} and {limits.token_bytes} are read at most"
            )
        return type(self)(raw, self.location, self.identifier, packets)

    def narrow(
        self,
        *caveats: AnyCaveat,
        expires_in_s: Duration | None = None,
        now_s: float | None = None,
        limits: Limits = DEFAULT,
        **restrictions: Unpack[Restrictions],
    ) -> Self:
        """Return the token restricted further. It works offline: no key, no network. The same call gives the same
        token, so that verifiers' caches hit.

        Args:
            caveats: caveats of any kind, after those of ``restrictions``.
            expires_in_s: the lifetime of the result from ``now_s`` on, in seconds or as a ``timedelta``. It is rounded
                up by a quarter at most.
            now_s: the time, in Unix seconds; required with ``expires_in_s``.
            limits: the maximum sizes that readers accept.
            restrictions: ``action``, ``resource``, ``prefix``, ``otherwise``, ``audience``, ``ip``, ``method`` and
                ``path``: see ``Restrictions``.

        Raises:
            InvalidCaveat: a caveat can't be written, belongs in a discharge, or states a fact, which only the authority
                may do. If an argument is the reason, the message names it.
            OverLimit: the result would be larger than readers accept.
        """
        # Caveats that stay the same from call to call are first, so that narrowed tokens share the longest prefix.
        added = [*written(restrictions), *appendable(caveats)]
        if expires_in_s is not None:
            added.append(Exp(expiry_s(expires_in_s, now_s)))
        return self.extend(added, limits)

    def __repr__(self) -> str:
        size = len(self.packets)
        return (
            f"{type(self).__name__}({self.authority}, lineage {self.kid.hex()[:8]}…/{self.nonce.hex()[:12]}…, "
            f"{size} caveat{'s' * (size != 1)}, m {self.m})"
        )
