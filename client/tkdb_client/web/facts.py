"""What a request says of itself that clears caveats: method, path, address, and who sent it.

Only what can't be made up by the caller counts, and what isn't known denies:

- The **path** is the one that was received, escapes and all. It is known only where the server hands it over *and* it
  decodes to the very path that the app goes by: where something in between has rewritten one of them, it isn't.
- The **address** is the connection's, unless a header claims the same one: then a server may have taken it from there,
  and it isn't known. One exception: where the app has a verifier of Fly's attestation, the address is what the proxy
  says (``Fly-Client-IP``), and only in a request that is attested.
- The **source** is what Fly's proxy attests of *this* request. (Who may call the authority is another matter, which
  the authority looks at itself: `tkdb.server.attested`.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, Self
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from tkdb.attestation import Presented, Verifier
from tkdb.errors import NotPermitted
from tkdb.macaroon.access import Access, Source

CLIENT_IP: Final = b"fly-client-ip"
_CLAIMS: Final = frozenset({b"x-forwarded-for", b"x-real-ip", b"forwarded", CLIENT_IP})
"""Headers in which somebody says whose request it is."""

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request as the server hands it over.

    Attributes:
        method: the HTTP method; of a WebSocket's handshake GET.
        path: the path as received, or None where that isn't known.
        peer: the address that the connection comes from, or None.
        headers: all of its headers.
    """

    method: str
    path: str | None
    peer: str | None
    headers: Headers

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> Self:
        """Read an ASGI scope, of HTTP or of a WebSocket."""
        headers, client = tuple(scope["headers"]), scope.get("client")
        peer = _peer(client[0] if client else None, headers)
        return cls(scope.get("method", "GET"), _scope_path(scope), peer, headers)

    @classmethod
    def of_environ(cls, environ: Mapping[str, Any]) -> Self:
        """Read a WSGI environment (PEP 3333)."""
        headers = tuple(
            (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        )
        peer = _peer(environ.get("REMOTE_ADDR"), headers)
        return cls(environ["REQUEST_METHOD"], _environ_path(environ), peer, headers)

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of all headers of that name, in lower case."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request without asking the app."""

    method: str
    path: str | None
    ip: str | None
    source: Source | None

    def complete(self, access: Access) -> Access:
        """Return what a request attempts, with what the app has left out of it."""
        return msgspec.structs.replace(
            access,
            method=self.method if access.method is None else access.method,
            path=self.path if access.path is None else access.path,
            ip=self.ip if access.ip is None else access.ip,
            source=self.source if access.source is None else access.source,
        )


class Attestation:
    """Fly's attestation of an app's callers. Any number of threads may share one.

    Args:
        verifier: verifies Fly-Src, once a request.
        clock: returns Unix seconds.
    """

    def __init__(self, verifier: Verifier, clock: Callable[[], float] = time.time) -> None:
        self.verifier = verifier
        self._clock = clock
        self._lock = threading.Lock()

    def source(self, arrived: Arrived) -> Source | None:
        """Return who sent a request, or None where that isn't attested."""
        presented = Presented.of(arrived.peer or "", arrived.headers)
        try:
            with self._lock:
                source = self.verifier.verify(presented, now_s=self._clock())
        except NotPermitted:
            return None
        return Source(organization=source.org, app=source.app, machine=source.instance)


def facts(arrived: Arrived, attestation: Attestation | None) -> Facts:
    """Return what is known of a request. Attestations are used up by this: ask once."""
    if attestation is None:
        return Facts(arrived.method, arrived.path, arrived.peer, None)
    source = attestation.source(arrived)
    ip = None if source is None else _client_ip(arrived)
    return Facts(arrived.method, arrived.path, ip, source)


def _peer(address: str | None, headers: Headers) -> str | None:
    """Return the address of the connection, or None where a server may have put a header's word in its place: uvicorn
    does with X-Forwarded-For, in its default where the proxy is local; Werkzeug's ProxyFix does."""
    if not address:
        return None
    said = address.encode("latin-1", "replace")
    return None if any(said in value for name, value in headers if name.lower() in _CLAIMS) else address


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
    routed = scope["path"]
    # Before 2024 servers and frameworks left the prefix under which an app is mounted out of the path.
    return text if unquote(text) in {routed, scope.get("root_path", "") + routed} else None


def _environ_path(environ: Mapping[str, Any]) -> str | None:
    # Not in PEP 3333: gunicorn and werkzeug say RAW_URI, uWSGI, mod_wsgi and werkzeug REQUEST_URI.
    text = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    routed = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return text if text and text.isascii() and unquote_to_bytes(text) == routed.encode("latin-1") else None
