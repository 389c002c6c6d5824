"""The bundle in a request's Authorization header (RFC 9110, 11.6.2; RFC 6750, 2.1). Pure.

One header, the scheme Bearer in any case, tokens with commas between them. Whatever else a header may hold is refused
before anything is decoded. Tokens in a query or a body are never looked for: addresses end up in logs.

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
"""Of a header: as text, the largest bundle that is read takes less."""

_TOKEN: Final = rb"[A-Za-z0-9._~+/=-]+"
_BUNDLE: Final = re.compile(rb" *(" + _TOKEN + rb"(?: *, *" + _TOKEN + rb")*) *").fullmatch


def bundle_text(values: Sequence[bytes]) -> str | None:
    """Return the bundle in the values of all Authorization headers of one request; None where no token is presented.

    Args:
        values: each as it was received. A server that joins several with commas gives one value.

    Raises:
        Rejection: 400 where there are several headers, or one that can't be read; 401 where it is too long.
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
