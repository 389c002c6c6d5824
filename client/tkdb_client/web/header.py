"""The bundle in a request's Authorization header (RFC 9110, 11.6.2; RFC 6750, 2.1). Pure.

It accepts one header with the scheme Bearer, in any case, and tokens separated by commas. All other content of a header
is refused before anything is decoded. It never looks for tokens in a query or a body, because URLs end up in logs.

>>> bundle_text([b"bearer tkdb_AAAA"])
'tkdb_AAAA'
>>> bundle_text([b"Basic a2ltOmtpbQ=="]) is None
True
>>> bundle_text([b"Bearer tkdb_AAAA, Bearer tkdb_BBBB"])
Traceback (most recent call last):
...
tkdb_client.web.rejection.Rejection: 400 invalid_request: the Authorization header is not Bearer and a bundle
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tkdb.errors import OverLimit
from tkdb_client.web.rejection import Rejection

MAX_BYTES: Final = 64 * 1024
"""The largest header. The largest bundle that is read takes less as text."""

_TOKEN: Final = rb"[A-Za-z0-9._~+/=-]+"
_BUNDLE: Final = re.compile(rb" *(" + _TOKEN + rb"(?: *, *" + _TOKEN + rb")*) *").fullmatch


def bundle_text(values: Sequence[bytes]) -> str | None:
    """Return the bundle in the values of all Authorization headers of one request, or None if there is no token.

    Args:
        values: each value as received. A server that joins several headers with commas gives one value.

    Raises:
        Rejection: 400 if there are several headers, or one that can't be read; 401 if it is too long.
    """
    if not values:
        return None
    if len(values) > 1:
        raise Rejection.malformed(f"the request has {len(values)} Authorization headers")
    (value,) = values
    if len(value) > MAX_BYTES:
        raise Rejection.denied(
            OverLimit(f"the Authorization header has {len(value)} bytes; at most {MAX_BYTES} are read")
        )
    scheme, _, rest = value.partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    bundle = _BUNDLE(rest)
    if bundle is None:
        raise Rejection.malformed("the Authorization header is not Bearer and a bundle")
    return bundle[1].decode("ascii")
