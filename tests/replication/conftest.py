"""The bucket that the tests of replication share, whole and shaky."""

from __future__ import annotations

import pytest

from tests.replication.faults import FaultyProxy
from tests.replication.seaweed import Seaweed, make_bucket
from tests.replication.seaweed import now_ms as now_ms  # where other tests look for it
from tkdb_replication.bucket.settings import Bucket


@pytest.fixture(scope="session")
def bucket(s3_server: Seaweed) -> Bucket:
    """A bucket that all tests share: for who writes under names of its own."""
    return make_bucket(s3_server)


@pytest.fixture
def shaky_bucket(s3_server: Seaweed, bucket: Bucket, proxy: FaultyProxy) -> Bucket:
    """The same bucket as ``bucket``, through the proxy."""
    return s3_server.bucket(bucket.name, proxy.url)
