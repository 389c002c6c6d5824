"""Fly-Src: the proxy's attestation of the sender of a request on the private network. Pure: the time is an argument.

::

    Fly-Src: instance=4d891d7e;app=web;org=acme;ts=1756684800
    Fly-Src-Signature: base64 of Ed25519 over exactly the text above

The public key is in ``/.fly/fly-src.pub`` on every Machine, as hex. Source: Fly's verifier for Go,
https://pkg.go.dev/github.com/superfly/macaroon/flyio (FlySrcVerifier), which requires the same peers, age and keys.

A signature doesn't belong to one request. Ed25519 is deterministic and ``ts`` is in seconds, so all requests that a
machine sends within one second have the same two headers. So a request is accepted once for each pair of headers
together with the proxy's data about that one request (`Presented.request`).

>>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
>>> key = Ed25519PrivateKey.from_private_bytes(bytes(32))
>>> verifier = Verifier(key.public_key())
>>> source, signature = sign(key, Source("4d891d7e", "web", "acme", 1_756_684_800))
>>> presented = Presented("172.16.1.1", source, signature, "01K3-iad")
>>> verifier.verify(presented, now_s=1_756_684_801.0).app
'web'
>>> verifier.verify(presented, now_s=1_756_684_802.0)
Traceback (most recent call last):
...
tkdb.errors.NotPermitted: this request is a replay: it was sent again past the proxy
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tkdb import errors
from tkdb.arguments import members, reject, whole

PROXIES: Final = IPv4Network("172.16.0.0/16")
"""The addresses of Fly's proxy. Its headers are trusted only from there."""

AGE_MAX_S: Final = 30
"""The largest age of a signature, and how far in the future it may be, in seconds."""

SEEN_MAX: Final = 100_000
"""The largest number of remembered requests: those of 30 s at 3,000 a second."""

HEADER: Final = "fly-src"
SIGNATURE_HEADER: Final = "fly-src-signature"

NAME: Final = "[A-Za-z0-9_-]{1,64}"
"""The form of the name of a machine, an app or an organization, as a regular expression."""

KEY_FILE: Final = "/.fly/fly-src.pub"
"""The file with the proxy's public key, on every Machine."""

_UNIQUE: Final = ("fly-request-id", "fly-replay-src", "fly-replay-failed")
_LENGTH_MAX: Final = 512
_NAME: Final = re.compile(NAME).fullmatch
_SOURCE: Final = re.compile(rf"instance=({NAME});app=({NAME});org=({NAME});ts=([1-9][0-9]{{0,15}})").fullmatch


@dataclass(frozen=True, slots=True)
class Source:
    """The sender of a request: a machine, its app and its organization, with the time of the attestation in s since
    1970."""

    instance: str
    app: str
    org: str
    ts: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source in a Fly-Src header: exactly the four keys, in this order, with plain values.

        Raises:
            NotPermitted: it is anything else.
        """
        found = _SOURCE(text)
        if found is None:
            raise errors.NotPermitted("Fly-Src doesn't name exactly instance, app, org and ts", hint=_ASK)
        instance, app, org, ts = found.groups()
        return cls(instance, app, org, int(ts))

    def __str__(self) -> str:
        return f"instance={self.instance};app={self.app};org={self.org};ts={self.ts}"


@dataclass(frozen=True, slots=True)
class Presented:
    """The parts of a request that are verified.

    Args:
        peer: the address from which the connection came.
        source: its Fly-Src, or None.
        signature: its Fly-Src-Signature, or None.
        request: the proxy's data about this one request. `Presented.from_headers` uses its id and its replays.
    """

    peer: str
    source: str | None
    signature: str | None
    request: str

    @classmethod
    def from_headers(cls, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> Self:
        """Return the parts in a request's headers, in ASGI's form. A repeated header counts as missing."""
        found: dict[str, list[str]] = {}
        for name, value in headers:
            found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        once = {name: values[0] for name, values in found.items() if len(values) == 1}
        request = "\n".join(once.get(name, "") for name in _UNIQUE)
        return cls(peer, once.get(HEADER), once.get(SIGNATURE_HEADER), request)


class Verifier:
    """Verifies the sender of a request, that the sender is allowed, and that the request isn't a replay.

    Args:
        key: the proxy's public key.
        apps: the apps whose requests are accepted. None: any.
        orgs: the organizations whose requests are accepted. None: any.
        proxies: the addresses of the proxy.
        seen_max: the largest number of remembered requests. Beyond that the oldest are forgotten.

    Raises:
        ConfigurationError: an argument has a wrong type, or a list is empty.
    """

    def __init__(
        self,
        key: Ed25519PublicKey,
        *,
        apps: Collection[str] | None = None,
        orgs: Collection[str] | None = None,
        proxies: IPv4Network = PROXIES,
        seen_max: int = SEEN_MAX,
    ) -> None:
        if not isinstance(key, Ed25519PublicKey):
            reject("key", key, "is not the proxy's public key", "pass parse_public_key(text)")
        if not isinstance(proxies, IPv4Network | IPv6Network):
            reject("proxies", proxies, "is not a network", 'pass ip_network("172.16.0.0/16"), or leave it out')
        whole("seen_max", seen_max, least=1, hint="pass a number of requests")
        self._key = key
        self._apps = _names("apps", apps)
        self._orgs = _names("orgs", orgs)
        self._proxies = proxies
        self._seen_max = seen_max
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    @property
    def remembered(self) -> int:
        """The number of remembered requests."""
        return len(self._seen)

    def verify(self, presented: Presented, *, now_s: float) -> Source:
        """Return the sender of the request.

        Args:
            presented: the parts of the request.
            now_s: the time, in seconds since 1970.

        Raises:
            NotPermitted: the request didn't come from the proxy, isn't signed by it, is from another time, comes from
                an app or organization that isn't accepted, or is a replay.
        """
        self._check_peer(presented.peer)
        if presented.source is None or presented.signature is None:
            raise errors.NotPermitted("the request has no Fly-Src, or more than one", hint=_ASK)
        self._check_signature(presented.source, presented.signature)
        source = Source.parse(presented.source)
        if not abs(now_s - source.ts) <= AGE_MAX_S:
            raise errors.NotPermitted(
                f"Fly-Src is from another time: at most {AGE_MAX_S} s difference is allowed",
                hint="check this machine's clock",
            )
        self._check_listed(source)
        self._check_first(presented, source, now_s)
        return source

    def _check_peer(self, peer: str) -> None:
        try:
            inside = ip_address(peer) in self._proxies
        except ValueError:
            inside = False
        if not inside:
            raise errors.NotPermitted(
                f"the connection isn't from the proxy, whose addresses are {self._proxies}", hint=_ASK
            )

    def _check_signature(self, source: str, signature: str) -> None:
        try:
            if len(source) > _LENGTH_MAX or len(signature) != _SIGNATURE_LENGTH:
                raise InvalidSignature
            self._key.verify(base64.b64decode(signature.encode("ascii"), validate=True), source.encode("ascii"))
        except (InvalidSignature, UnicodeEncodeError, binascii.Error):
            raise errors.NotPermitted("Fly-Src isn't signed by the proxy", hint=_ASK) from None

    def _check_listed(self, source: Source) -> None:
        allowed = (self._apps is None or source.app in self._apps) and (self._orgs is None or source.org in self._orgs)
        if not allowed:
            raise errors.NotPermitted(
                "the calling app or organization isn't allowed",
                hint="allow it in the configuration",
            )

    def _check_first(self, presented: Presented, source: Source, now_s: float) -> None:
        while self._seen and next(iter(self._seen.values())) < now_s - 2 * AGE_MAX_S:
            self._seen.popitem(last=False)
        # A digest, because headers may be long, and each remembered request must be small.
        key = hashlib.sha256(f"{source}\n{presented.request}".encode("utf-8", "surrogatepass")).digest()
        if key in self._seen:
            raise errors.NotPermitted("this request is a replay", hint="it was sent again past the proxy")
        if len(self._seen) >= self._seen_max:
            self._seen.popitem(last=False)
        self._seen[key] = int(now_s)


_ASK: Final = "ask over flycast"
_SIGNATURE_LENGTH: Final = 88


def _names(argument: str, names: Collection[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    hint = "pass a list of names, or None for any"
    found = members(argument, names, hint=hint)
    for name in found:
        if not isinstance(name, str) or not _NAME(name):
            reject(argument, name, "is not a name", hint)
    return frozenset(found)


def sign(key: Ed25519PrivateKey, source: Source) -> tuple[str, str]:
    """Return Fly-Src and Fly-Src-Signature, as the proxy writes them."""
    text = str(source)
    return text, base64.b64encode(key.sign(text.encode("ascii"))).decode("ascii")


def parse_public_key(text: str) -> Ed25519PublicKey:
    """Return the public key in the form of ``/.fly/fly-src.pub``: 64 hex digits.

    Raises:
        ConfigurationError: it is anything else.
    """
    if not isinstance(text, str):
        reject("text", text, "is not the text of a key", "pass the content of /.fly/fly-src.pub")
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.strip()))
    except ValueError:
        raise errors.ConfigurationError(
            "the public key of Fly-Src can't be read: 64 hex digits are expected", hint="read /.fly/fly-src.pub"
        ) from None
