"""Readers of bytes that anyone can send to an app: the Authorization header, and the path."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from tests.fuzz.target import Target
from tests.fuzz.token_targets import TEXT_WORDS
from tkdb.errors import MalformedToken
from tkdb_client.web.facts import Arrived
from tkdb_client.web.header import bundle_text
from tkdb_client.web.rejection import Rejection

FIELD = b"\x1e"
HEADER_WORDS = (b"Bearer ", b"bearer ", b"Basic ", b",", b", Bearer ", b"\x00", b"\t", b"=", FIELD, *TEXT_WORDS)
PATH_WORDS = (b"%2f", b"%2e", b"//", b"/..", b"%25", b"%", b"?", b"#", b"\\", b"http://", FIELD)
_CHALLENGE = re.compile(r'Bearer realm="[ -~]*"(, error="[a-z_]+", error_description="[ !#-\[\]-~]*")?').fullmatch


def read_header(data: bytes) -> str | None:
    """Read the values of one request's Authorization headers, any number of them."""
    text = bundle_text(data.split(FIELD))
    if text is None:
        return "none"
    assert re.fullmatch(r"[A-Za-z0-9._~+/=, -]+", text), text
    assert data[7:].strip(b" ") == text.encode("ascii")
    return "one" if "," not in text else "several"


def challenge(data: bytes) -> str | None:
    """Quote any received text in a challenge: it never gets out of its place in the header."""
    text = data.decode("latin-1")
    for rejection in (Rejection.denied(MalformedToken(text)), Rejection.malformed(text)):
        assert _CHALLENGE(rejection.challenge(text))
    return None


def read_path(data: bytes) -> str | None:
    """Read the path: it is known only in the form that was received, and only if the app routes by its decoded form."""
    raw, _, routed = data.partition(FIELD)
    scope = {"type": "http", "method": "GET", "headers": [], "raw_path": raw, "path": routed.decode("utf-8", "replace")}
    asgi_path = Arrived.of_scope(scope).path
    environ = {"REQUEST_METHOD": "GET", "RAW_URI": raw.decode("latin-1"), "PATH_INFO": routed.decode("latin-1")}
    wsgi_path = Arrived.of_environ(environ, method="GET").path
    for path in (asgi_path, wsgi_path):
        assert path is None or raw.startswith(path.encode("ascii"))
    assert wsgi_path is None or unquote_to_bytes(wsgi_path) == routed
    return f"{asgi_path is None} {wsgi_path is None}"


TARGETS = [
    Target(
        "web-header", read_header, (Rejection,), [b"Bearer tkdb_a,tkdb_b", b"bearer  a= ", b"Basic x"], HEADER_WORDS
    ),
    Target("challenge", challenge, (), [b'why "not"', b"\xff\\"], HEADER_WORDS),
    Target("path", read_path, (), [b"/v1/a%20b\x1e/v1/a b", b"/a\x1e/a", b"/\x1e/"], PATH_WORDS),
]
