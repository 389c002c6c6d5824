"""AWS Signature Version 4 for S3 requests whose whole body is known. Pure.

Source: "Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference
(https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).

>>> credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
>>> headers = sign("GET", "/", {"lifecycle": ""}, {"host": "examplebucket.s3.amazonaws.com"}, b"",
...                credentials=credentials, region="us-east-1", now_ms=1_369_353_600_000)
>>> headers["authorization"].rpartition("=")[2]
'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543'
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import quote

from tkdb_replication.bucket.credentials import Credentials


def sign(
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    credentials: Credentials,
    region: str,
    now_ms: int,
) -> dict[str, str]:
    """Return ``headers`` together with the headers that sign the request. The signature covers every given header.

    Args:
        method: in capitals.
        path: encoded with ``encode_path``.
        query: decoded. Send it encoded with ``encode_query``.
        headers: with names in lower case, including ``host``.
        body: the whole body.
        credentials: the access key.
        region: the store's region.
        now_ms: the time in ms since 1970. Stores refuse a time that is more than 15 minutes off.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ms / 1000))
    payload = hashlib.sha256(body).hexdigest()
    signed = {**headers, "x-amz-content-sha256": payload, "x-amz-date": stamp}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in sorted(signed))
    names = ";".join(sorted(signed))
    request = "\n".join((method, path, encode_query(query), lines, names, payload))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def encode_path(path: str) -> str:
    """Percent-encode a path: every character except letters, digits, ``-._~`` and slashes."""
    return quote(path, safe="/-._~")


def encode_query(query: Mapping[str, str]) -> str:
    """Percent-encode a query, sorted by name."""
    return "&".join(f"{quote(name, safe='-._~')}={quote(query[name], safe='-._~')}" for name in sorted(query))
