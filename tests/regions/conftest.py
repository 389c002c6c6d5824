"""Fixtures for tests of clusters: a proxy in front of the session's object store, and a ledger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.regions.cluster import Cluster
from tests.regions.ledger import Ledger
from tests.regions.rule_proxy import RuleProxy
from tests.replication.seaweed import Seaweed


@pytest.fixture
def store_proxy(s3_server: Seaweed) -> Iterator[RuleProxy]:
    """A proxy in front of the object store. It is honest until a test sets another rule."""
    with RuleProxy(s3_server.port) as store_proxy:
        yield store_proxy


@pytest.fixture(scope="module")
def ledger(running: Cluster) -> Ledger:
    """The ledger of ``running``, which each module defines, with its first writes."""
    ledger = Ledger(running)
    with running.nodes[running.primary()].client() as client:
        ledger.write(client, "acme")
    return ledger
