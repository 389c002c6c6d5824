"""A folder for a real lab. Tests that need it are skipped if this machine can't run a lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tkdb_ops.lab.folder import claimed


@pytest.fixture
def folder(needs_isolated_lab: None, tmp_path: Path) -> Iterator[Path]:
    """A claimed folder for a lab."""
    with claimed(tmp_path / "lab") as folder:
        yield folder
