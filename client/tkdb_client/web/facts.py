"""The facts of a request that clear caveats: method, path, address and source.

Only facts that the caller can't invent count, and an unknown fact denies:

- The **path** is the received one, with its escapes. It is known only if the server provides it *and* it decodes to
  exactly the path that the app uses. If a part in between has rewritten one of them, the path is unknown.
- **Method and path** are those of the request as it is when it is cleared, because that is what the app runs. If they
  aren't those with which it arrived at the outermost gate, nothing clears. The same holds for its token.
- The **address** is the connection's. If any header claims an address, a server may have copied it from there, so the
  address is unknown. There is one exception. If the app has a verifier of Fly's attestation, the address is the
  proxy's ``Fly-Client-IP``, and only in an attested request. A request whose peer may be copied from a header isn't
  attested.
- The **source** is the one that Fly's proxy attests for *this* request. (The authority checks its own callers itself:
  `tkdb.server.attested`.)
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Self
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from tkdb.attestation import Presented, Verifier
from tkdb.errors import NotPermitted
from tkdb.macaroon.access import Access, Source
from tkdb_client.forks import renewed_after_fork

CLIENT_IP: Final = b"fly-client-ip"
CLAIMS: Final = frozenset(
    b"""
    forwarded forwarded-for x-forwarded x-forwarded-for x-forwarded-client-ip x-original-forwarded-for
    x-vercel-forwarded-for client-ip x-client-ip cluster-client-ip x-cluster-client-ip true-client-ip real-ip x-real-ip
    remote-addr x-remote-addr remote-ip x-remote-ip x-originating-ip x-source-ip proxy-client-ip wl-proxy-client-ip
    cf-connecting-ip cf-connecting-ipv6 cf-pseudo-ipv4 do-connecting-ip ali-cdn-real-ip cdn-src-ip fastly-client-ip
    fly-client-ip incap-client-ip x-appengine-user-ip x-azure-clientip x-azure-socketip x-envoy-external-address
    x-nf-client-connection-ip x-sucuri-clientip
    """.split()
)
"""Headers that claim the address of a request. A server or a middleware may take the address from one of them."""

_WITH_PORT: Final = re.compile(r"\[([^\]]*)\](?::\d{1,5})?|(\d+\.\d+\.\d+\.\d+):\d{1,5}").fullmatch

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, with values."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request as the server provides it.

    Attributes:
        method: the HTTP method; GET for a WebSocket's handshake.
        path: the received path, or None if it is unknown.
        root: the part of the app's path that a mount or a server has taken off, decoded.
        routed: the path by which the app routes, decoded. Frameworks differ in whether it contains ``root``.
        peer: the address of the connection as the server gives it, or None. A server may have taken it from a header.
        headers: all its headers.
    """

    method: str
    path: str | None
    root: str
    routed: str
    peer: str | None
    headers: Headers = field(repr=False)  # one of them has the token

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> Self:
        """Return the request in an ASGI scope, for HTTP or a WebSocket."""
        client = scope.get("client")
        peer = client[0] if client else None
        root, routed = scope.get("root_path", ""), scope["path"]
        return cls(scope.get("method", "GET"), _scope_path(scope), root, routed, peer, tuple(scope["headers"]))

    @classmethod
    def of_environ(cls, environ: Mapping[str, Any], *, method: str, routed: str | None = None) -> Self:
        """Return the request in a WSGI environment (PEP 3333).

        Args:
            environ: the environment.
            method: the method that the app sees.
            routed: the path by which the app routes, as text, if it isn't the environment's.
        """
        headers = tuple(
            (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        )
        raw, root = _raw_path(environ), environ.get("SCRIPT_NAME", "")
        if routed is None:
            routed = environ.get("PATH_INFO", "")
            decoded = unquote_to_bytes(raw).decode("latin-1")  # which is how WSGI has bytes as text
        else:
            decoded, root = unquote(raw), root.rstrip("/")
        path = raw if raw and decoded == root + routed else None
        return cls(method, path, root, routed, environ.get("REMOTE_ADDR"), headers)

    def is_same(self, first: Arrived) -> bool:
        """Return True if this is still the request that arrived as ``first``, so that the app runs that request.

        A mount may have moved a part of the path into the root in the meantime.
        """
        moved = self.root.startswith(first.root) and self.root + self.routed == first.root + first.routed
        if self.method != first.method or not (moved or self.routed == first.routed):
            return False
        return first.path is None or self.path == first.path

    def has_same_token(self, first: Arrived) -> bool:
        """Return True if this has the Authorization header that arrived with ``first``."""
        return self.values(b"authorization") == first.values(b"authorization")

    @property
    def shown(self) -> str:
        """The method and the path, for a message."""
        root = "" if self.routed.startswith(self.root) else self.root
        return f"{self.method[:32]!a} {(root + self.routed)[:200]!a}"

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of all headers with this lower-case name."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(frozen=True, slots=True)
class Origin:
    """The attested facts about a request, which are used up by the outermost gate: its address and its source."""

    ip: str | None
    source: Source | None

    def complete(self, access: Access, live: Arrived) -> Access:
        """Return the access, with the known facts for the fields that the app has left out."""
        return msgspec.structs.replace(
            access,
            method=live.method if access.method is None else access.method,
            path=live.path if access.path is None else access.path,
            ip=self.ip if access.ip is None else access.ip,
            source=self.source if access.source is None else access.source,
        )


class Attestation:
    """Fly's attestation of an app's callers. Any number of threads may share it.

    Args:
        verifier: verifies Fly-Src, once for each request.
        clock: returns Unix seconds.
    """

    def __init__(self, verifier: Verifier, clock: Callable[[], float] = time.time) -> None:
        self.verifier = verifier
        self._clock = clock
        self._lock = threading.Lock()
        renewed_after_fork(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()  # in the child of a fork: a thread of the parent may have held the lock

    def source(self, arrived: Arrived) -> Source | None:
        """Return the source of a request, or None if it isn't attested."""
        if not arrived.peer or _may_be_copied(arrived.peer, arrived.headers):
            return None
        presented = Presented.from_headers(arrived.peer, arrived.headers)
        try:
            with self._lock:
                source = self.verifier.verify(presented, now_s=self._clock())
        except NotPermitted:
            return None
        return Source(organization=source.org, app=source.app, machine=source.instance)


def origin(arrived: Arrived, attestation: Attestation | None) -> Origin:
    """Return the origin of a request. This uses up its attestation, so call it once."""
    if attestation is None:
        return Origin(_address(arrived), None)
    source = attestation.source(arrived)
    return Origin(None if source is None else _client_ip(arrived), source)


def _address(arrived: Arrived) -> str | None:
    """Return the address of the connection, or None if a server may have replaced it with a header's value.

    uvicorn does so with X-Forwarded-For, by default if the proxy is local, and so does Werkzeug's ProxyFix. What they
    make of a header isn't always a part of its text (RFC 7239 has quoted pairs), so the presence of a header decides.
    """
    return None if any(_claims(name) for name, _ in arrived.headers) else arrived.peer or None


def _claims(name: bytes) -> bool:
    return name.lower().replace(b"_", b"-") in CLAIMS


def _may_be_copied(peer: str, headers: Headers) -> bool:
    """Return True if a server may have copied the peer from a header, so it isn't known to be the proxy's address.

    Fly's proxy sends such headers itself. So each of them must be readable, and name only other addresses.
    """
    for name, value in headers:
        if _claims(name):
            claimed = [_read_address(text) for text in value.decode("latin-1").split(",")]
            if None in claimed or _read_address(peer) in claimed:
                return True
    return False


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in a header's element, with or without a port; None if it can't be read."""
    text = text.strip(" \t")
    found = _WITH_PORT(text)
    try:
        address = ip_address(text if found is None else found[1] or found[2])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _client_ip(arrived: Arrived) -> str | None:
    values = arrived.values(CLIENT_IP)
    if len(values) != 1:
        return None
    try:
        return str(ip_address(values[0].decode("latin-1").strip()))
    except ValueError:
        return None


def _scope_path(scope: Mapping[str, Any]) -> str | None:
    raw = scope.get("raw_path")
    if not raw or not raw.isascii():
        return None
    text: str = raw.decode("ascii")
    # Before 2024, servers and frameworks left the prefix of a mounted app out of the path.
    return text if unquote(text) in {scope["path"], scope.get("root_path", "") + scope["path"]} else None


def _raw_path(environ: Mapping[str, Any]) -> str:
    """Return the received path, or "" if the server doesn't pass it on."""
    # Not in PEP 3333: gunicorn and werkzeug use RAW_URI; uWSGI, mod_wsgi and werkzeug use REQUEST_URI.
    text = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    return text if text.isascii() else ""
