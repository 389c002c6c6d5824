"""The object store over S3's API: one request for each call, with one deadline, no retries and no redirects. Only a
request that the store refuses because of its credentials is sent once more, if the source has others by now.

    async with S3Objects(Bucket.parse(os.environ), now_ms=now_ms) as objects:
        match await objects.put("head", body, if_match=etag, timeout_ms=2_000):
            case Stored(etag): ...
            case Conflict(): ...
            case Unknown(message): ...

Conditional writes follow "How to prevent object overwrites with conditional writes", Amazon S3 User Guide
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Literal, Self

import httpcore

from tkdb.net.names import Names
from tkdb.net.pool import AsyncPool
from tkdb_replication.bucket.credentials import Credentials
from tkdb_replication.bucket.http import Response
from tkdb_replication.bucket.listing import error_code, parse_page
from tkdb_replication.bucket.objects import (
    MAX_BODY_BYTES,
    Conflict,
    Deleted,
    Found,
    Listed,
    Listing,
    Missing,
    NotModified,
    Stored,
    Unknown,
)
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.bucket.sigv4 import encode_path, encode_query, sign

MAX_IDLE_S: Final = 10
"""A connection that is idle for longer may be closing at its other end, and a request on it would end as Unknown."""
CONNECTIONS: Final = 16

_HEADERS: Final = {
    "accept-encoding": "identity",
    # Tigris reads from the nearest region unless this header is set. Other stores ignore it.
    # https://www.tigrisdata.com/docs/objects/consistency/
    "x-tigris-consistent": "true",
}


_REFUSALS: Final = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"})
"""Codes that concern only the credentials. AWS's answers with them have the status 400 or 403."""


class _Answer(Response):
    """A whole HTTP response of an object store."""

    __slots__ = ()

    @property
    def no_such_key(self) -> bool:
        # A missing bucket is a 404 too, and so is the answer of another server at that address.
        return self.status == 404 and error_code(self.body) == "NoSuchKey"

    @property
    def refuses_credentials(self) -> bool:
        """Whether the store refused the credentials, and so did nothing. A wrong clock is another cause of a 403."""
        code = error_code(self.body)
        return code in _REFUSALS or (self.status in (401, 403) and code != "RequestTimeTooSkewed")


class S3Objects:
    """A bucket of an S3 object store, with the interface ``Objects``. It belongs to one event loop. Close it after
    use.

    Args:
        bucket: the bucket's address and credentials.
        now_ms: the time in ms since 1970, for signatures.
        connections: the largest number of concurrent requests. Further ones wait.
    """

    def __init__(self, bucket: Bucket, *, now_ms: Callable[[], int], connections: int = CONNECTIONS) -> None:
        self._bucket = bucket
        self._now_ms = now_ms
        self._pool = AsyncPool(
            Names(),
            max_connections=connections,
            keepalive_expiry=MAX_IDLE_S,
            # Created once, because reading the certificates takes longer than a request.
            ssl_context=httpcore.default_ssl_context() if bucket.endpoint.scheme == "https" else None,
        )

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()
        await asyncio.sleep(0)  # connections that were cut are closed in the loop's next step

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get(
        self, key: str, *, if_none_match: str | None = None, timeout_ms: int
    ) -> Found | NotModified | Missing | Unknown:
        """As in ``Objects``. A missing bucket, and a bucket that refuses access, are ``Unknown`` and never
        ``Missing``."""
        condition = {} if if_none_match is None else {"if-none-match": if_none_match}
        answer = await self._ask("GET", key, headers=condition, timeout_ms=timeout_ms)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200 and "etag" in answer.headers:
            return Found(answer.body, answer.headers["etag"], answer.date_ms)
        if answer.status == 304 and condition:
            return NotModified(answer.date_ms)
        if answer.no_such_key:
            return Missing(answer.date_ms)
        return self._unknown(answer, "get")

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_match: str | None = None,
        if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:
        """As in ``Objects``."""
        condition = {} if if_match is None else {"if-match": if_match}
        if if_none_match is not None:
            condition["if-none-match"] = if_none_match
        headers = {"content-type": "application/octet-stream", "content-length": str(len(body)), **condition}
        answer = await self._ask("PUT", key, headers=headers, body=body, timeout_ms=timeout_ms)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200 and "etag" in answer.headers:
            return Stored(answer.headers["etag"], answer.date_ms)
        # If there is no object, AWS answers If-Match with 404, and other stores with 412.
        if condition and (answer.status in (409, 412) or answer.no_such_key):
            return Conflict(answer.date_ms)
        return self._unknown(answer, "put")

    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        """As in ``Objects``."""
        answer = await self._ask("DELETE", key, timeout_ms=timeout_ms)
        if isinstance(answer, Unknown):
            return answer
        if answer.status in (200, 204) or answer.no_such_key:
            return Deleted(answer.date_ms)
        return self._unknown(answer, "delete")

    async def list(self, prefix: str, *, timeout_ms: int) -> Listed | Unknown:
        """As in ``Objects``. The timeout is for all pages together."""
        objects: list[Listing] = []
        query = {"list-type": "2", "prefix": prefix}
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while True:
                    answer = await self._ask("GET", "", query=query, timeout_ms=timeout_ms)
                    if isinstance(answer, Unknown):
                        return answer
                    page = parse_page(answer.body) if answer.status == 200 else None
                    if page is None:
                        return self._unknown(answer, "list")
                    objects += page.objects
                    if page.next_token is None:
                        return Listed(tuple(objects), answer.date_ms)
                    query["continuation-token"] = page.next_token
        except TimeoutError:
            return self._late(timeout_ms)

    async def _ask(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_ms: int,
    ) -> _Answer | Unknown:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                credentials = self._bucket.credentials
                answer = await self._send(method, key, query or {}, headers or {}, body, credentials, timeout_ms)
                if isinstance(answer, Unknown) or not answer.refuses_credentials:
                    return answer
                # The store did nothing, so also a conditional put may be sent again.
                if not await self._bucket.source.renew(credentials):
                    return answer
                renewed = self._bucket.credentials
                return await self._send(method, key, query or {}, headers or {}, body, renewed, timeout_ms)
        except TimeoutError:
            return self._late(timeout_ms)

    async def _send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
        credentials: Credentials,
        timeout_ms: int,
    ) -> _Answer | Unknown:
        endpoint = self._bucket.endpoint
        path = encode_path(f"{endpoint.prefix}/{self._bucket.name}/{key}")
        signed = sign(
            method,
            path,
            query,
            {"host": endpoint.host_header, **_HEADERS, **headers},
            body,
            credentials=credentials,
            region=self._bucket.region,
            now_ms=self._now_ms(),
        )
        target = f"{path}?{encode_query(query)}" if query else path
        url = httpcore.URL(scheme=endpoint.scheme, host=endpoint.host, port=endpoint.port, target=target)
        request = httpcore.Request(
            method,
            url,
            headers=[*signed.items()],
            content=body or None,
            extensions={"timeout": {"connect": timeout_ms / 1000}},
        )
        try:
            async with self._pool.stream(request) as response:
                return await _read(response)
        except httpcore.TimeoutException:
            raise TimeoutError from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return Unknown(f"{endpoint} couldn't be reached, or broke off: {type(error).__name__}")

    def _unknown(self, answer: _Answer, asked: str) -> Unknown:
        code = error_code(answer.body)
        said = f"the object store answered {answer.status}{code and f' {code}'} to a {asked}"
        if answer.refuses_credentials:
            said += f": it refuses the access key from {self._bucket.source.name}"
        return Unknown(said, answer.status)

    def _late(self, timeout_ms: int) -> Unknown:
        return Unknown(f"{self._bucket.endpoint} didn't answer within {timeout_ms} ms")


async def _read(response: httpcore.Response) -> _Answer | Unknown:
    body = bytearray()
    async for chunk in response.aiter_stream():
        if len(body) + len(chunk) > MAX_BODY_BYTES:
            return Unknown(f"the object store's answer is larger than {MAX_BODY_BYTES:,} bytes", response.status)
        body += chunk
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    return _Answer(response.status, headers, bytes(body))
