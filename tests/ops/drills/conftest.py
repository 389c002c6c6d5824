"""A folder for a real lab, where one can be run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tkdb_ops.lab.folder import claimed


@pytest.fixture
def folder(able: None, tmp_path: Path) -> Iterator[Path]:
    """Where a lab may be."""
    with claimed(tmp_path / "lab") as folder:
        yield folder
