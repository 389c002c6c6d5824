"""The facts of a request that clear caveats: method, path, address and source.

Only facts that the caller can't invent count, and an unknown fact denies:

- The **path** is the received one, with its escapes. It is known only if the server provides it *and* it decodes to
  exactly the path that the app uses. If a part in between has rewritten one of them, the path is unknown.
- The **address** is the connection's, unless a header claims the same one: then a server may have copied it from there,
  and it is unknown. There is one exception. If the app has a verifier of Fly's attestation, the address is the proxy's
  ``Fly-Client-IP``, and only in an attested request.
- The **source** is the one that Fly's proxy attests for *this* request. (The authority checks its own callers itself:
  `tkdb.server.attested`.)
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
from tkdb_client.forks import renewed_after_fork

CLIENT_IP: Final = b"fly-client-ip"
_CLAIMS: Final = frozenset({b"x-forwarded-for", b"x-real-ip", b"forwarded", CLIENT_IP})
"""Headers that claim the address of a request."""

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, with values."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request as the server provides it.

    Attributes:
        method: the HTTP method; GET for a WebSocket's handshake.
        path: the received path, or None if it is unknown.
        peer: the address of the connection, or None.
        headers: all its headers.
    """

    method: str
    path: str | None
    peer: str | None
    headers: Headers

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> Self:
        """Return the request in an ASGI scope, for HTTP or a WebSocket."""
        headers, client = tuple(scope["headers"]), scope.get("client")
        peer = _peer(client[0] if client else None, headers)
        return cls(scope.get("method", "GET"), _scope_path(scope), peer, headers)

    @classmethod
    def of_environ(cls, environ: Mapping[str, Any]) -> Self:
        """Return the request in a WSGI environment (PEP 3333)."""
        headers = tuple(
            (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        )
        peer = _peer(environ.get("REMOTE_ADDR"), headers)
        return cls(environ["REQUEST_METHOD"], _environ_path(environ), peer, headers)

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of all headers with this lower-case name."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a request that are known without the app."""

    method: str
    path: str | None
    ip: str | None
    source: Source | None

    def complete(self, access: Access) -> Access:
        """Return the access, with the known facts for the fields that the app has left out."""
        return msgspec.structs.replace(
            access,
            method=self.method if access.method is None else access.method,
            path=self.path if access.path is None else access.path,
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
        presented = Presented.from_headers(arrived.peer or "", arrived.headers)
        try:
            with self._lock:
                source = self.verifier.verify(presented, now_s=self._clock())
        except NotPermitted:
            return None
        return Source(organization=source.org, app=source.app, machine=source.instance)


def facts(arrived: Arrived, attestation: Attestation | None) -> Facts:
    """Return the facts about a request. This uses up its attestation, so call it once."""
    if attestation is None:
        return Facts(arrived.method, arrived.path, arrived.peer, None)
    source = attestation.source(arrived)
    ip = None if source is None else _client_ip(arrived)
    return Facts(arrived.method, arrived.path, ip, source)


def _peer(address: str | None, headers: Headers) -> str | None:
    """Return the address of the connection, or None if a server may have replaced it with a header's value.

    uvicorn does so with X-Forwarded-For, by default if the proxy is local, and so does Werkzeug's ProxyFix.
    """
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
    # Before 2024, servers and frameworks left the prefix of a mounted app out of the path.
    return text if unquote(text) in {routed, scope.get("root_path", "") + routed} else None


def _environ_path(environ: Mapping[str, Any]) -> str | None:
    # Not in PEP 3333: gunicorn and werkzeug use RAW_URI; uWSGI, mod_wsgi and werkzeug use REQUEST_URI.
    text = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    routed = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return text if text and text.isascii() and unquote_to_bytes(text) == routed.encode("latin-1") else None
