from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running authority with the organization acme, shared by the tests of a module."""
    with Node(tmp_path_factory.mktemp("node") / "tkdb.db") as running:
        with running.client() as client:
            client.create_organization("acme")
        yield running
