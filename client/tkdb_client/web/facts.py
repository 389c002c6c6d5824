"""The facts of a request that clear caveats: method, path, address and source.

Only facts that the caller can't invent count, and an unknown fact denies:

- The **path** is the received one, with its escapes. It is known only if the server provides it *and* it decodes to
  exactly the path that the app uses. If a part in between has rewritten one of them, the path is unknown.
- **Method and path** are those of the request as it is when it is cleared, because that is what the app runs. If they
  aren't those with which it arrived at the outermost gate, nothing clears.
- The **address** is the connection's. If any header claims an address, a server may have copied it from there, so the
  address is unknown. There is one exception. If the app has a verifier of Fly's attestation, the address is the
  proxy's ``Fly-Client-IP``, and only in an attested request.
- The **source** is the one that Fly's proxy attests for *this* request. (The authority checks its own callers itself:
  `tkdb.server.attested`.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Self
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from tkdb.attestation import Presented, Verifier
from tkdb.errors import NotPermitted
from tkdb.macaroon.access import Access, Source
from tkdb_client.forks import renewed_after_fork

CLIENT_IP: Final = b"fly-client-ip"
CLAIMS: Final = frozenset(
    {
        *(b"forwarded", b"forwarded-for", b"x-forwarded", b"x-forwarded-for", b"x-original-forwarded-for"),
        *(b"x-real-ip", b"client-ip", b"x-client-ip", b"true-client-ip", b"x-cluster-client-ip", b"x-remote-addr"),
        *(
            b"x-remote-ip",
            b"x-originating-ip",
            b"x-envoy-external-address",
            b"x-azure-clientip",
            b"x-appengine-user-ip",
        ),
        *(b"cf-connecting-ip", b"cf-connecting-ipv6", b"fastly-client-ip", CLIENT_IP),
    }
)
"""Headers that claim the address of a request."""

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, with values."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request as the server provides it.

    Attributes:
        method: the HTTP method; GET for a WebSocket's handshake.
        path: the received path, or None if it is unknown.
        routed: the whole path by which the app routes, decoded.
        peer: the address of the connection as the server gives it, or None. A server may have taken it from a header.
        headers: all its headers.
    """

    method: str
    path: str | None
    routed: str
    peer: str | None
    headers: Headers = field(repr=False)  # one of them has the token

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> Self:
        """Return the request in an ASGI scope, for HTTP or a WebSocket."""
        client = scope.get("client")
        peer = client[0] if client else None
        return cls(scope.get("method", "GET"), _scope_path(scope), _routed(scope), peer, tuple(scope["headers"]))

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
        raw = _raw_path(environ)
        if routed is None:
            routed = str(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
            decoded = unquote_to_bytes(raw).decode("latin-1")  # which is how WSGI has bytes as text
        else:
            decoded = unquote(raw)
        return cls(method, raw if raw and decoded == routed else None, routed, environ.get("REMOTE_ADDR"), headers)

    def is_same(self, other: Arrived) -> bool:
        """Return True if the app would run the same for both: method and path are the same."""
        return (self.method, self.path, self.routed) == (other.method, other.path, other.routed)

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
        presented = Presented.from_headers(arrived.peer or "", arrived.headers)
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
    is_claimed = any(name.lower().replace(b"_", b"-") in CLAIMS for name, _ in arrived.headers)
    return None if is_claimed else arrived.peer or None


def _client_ip(arrived: Arrived) -> str | None:
    values = arrived.values(CLIENT_IP)
    if len(values) != 1:
        return None
    try:
        return str(ip_address(values[0].decode("latin-1").strip()))
    except ValueError:
        return None


def _routed(scope: Mapping[str, Any]) -> str:
    # Before 2024, servers and frameworks left the prefix of a mounted app out of the path.
    prefix, path = scope.get("root_path", ""), str(scope.get("path", ""))
    return path if path.startswith(prefix) else prefix + path


def _scope_path(scope: Mapping[str, Any]) -> str | None:
    raw = scope.get("raw_path")
    if not raw or not raw.isascii():
        return None
    text: str = raw.decode("ascii")
    return text if unquote(text) in {scope["path"], scope.get("root_path", "") + scope["path"]} else None


def _raw_path(environ: Mapping[str, Any]) -> str:
    """Return the received path, or "" if the server doesn't pass it on."""
    # Not in PEP 3333: gunicorn and werkzeug use RAW_URI; uWSGI, mod_wsgi and werkzeug use REQUEST_URI.
    text = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    return text if text.isascii() else ""
