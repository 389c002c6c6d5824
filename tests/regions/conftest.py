"""For tests of clusters: a meddler before the object store, which is the session's, and a ledger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.regions.cluster import Cluster
from tests.regions.ledger import Ledger
from tests.regions.meddler import Meddler
from tests.replication.seaweed import Seaweed


@pytest.fixture
def meddler(s3_server: Seaweed) -> Iterator[Meddler]:
    """A proxy before the object store; it is honest until it is given another rule."""
    with Meddler(s3_server.port) as meddler:
        yield meddler


@pytest.fixture(scope="module")
def ledger(running: Cluster) -> Ledger:
    """Of what is acknowledged on ``running``, the module's own cluster, once the first is written."""
    ledger = Ledger(running)
    with running.nodes[running.primary()].client() as client:
        ledger.write(client, "acme")
    return ledger
