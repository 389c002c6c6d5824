"""A meddler before the object store, for tests of clusters. The object store itself is the session's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.regions.meddler import Meddler
from tests.replication.seaweed import Seaweed


@pytest.fixture
def meddler(s3_server: Seaweed) -> Iterator[Meddler]:
    """A proxy before the object store; it is honest until it is given another rule."""
    with Meddler(s3_server.port) as meddler:
        yield meddler
