"""The bucket that the replication tests share, and its access through a proxy with faults."""

from __future__ import annotations

import pytest

from tests.replication.faults import FaultyProxy
from tests.replication.seaweed import Seaweed, make_bucket
from tests.replication.seaweed import now_ms as now_ms  # other tests import it from here
from tkdb_replication.bucket.settings import Bucket


@pytest.fixture(scope="session")
def bucket(s3_server: Seaweed) -> Bucket:
    """A bucket that all tests share. A test must write only under its own keys."""
    return make_bucket(s3_server)


@pytest.fixture
def faulty_bucket(s3_server: Seaweed, bucket: Bucket, proxy: FaultyProxy) -> Bucket:
    """The same bucket as ``bucket``, accessed through the proxy."""
    return s3_server.bucket(bucket.name, proxy.url)
