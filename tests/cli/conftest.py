"""A ``tkdb dev`` that outlives the tests, and a token of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.processes import exports, quick, running


@pytest.fixture(scope="session")
def dev() -> Iterator[dict[str, str]]:
    """The environment that a running ``tkdb dev`` says to export, but for its token."""
    with running("dev") as process:
        found = exports(process)
        del found["TKDB_TOKEN"]
        yield found


@pytest.fixture
def token(dev: dict[str, str]) -> str:
    """A token of the organization ``dev``, that may read and write app shop."""
    return quick("token", "mint", "dev", "--act", "rw", "--res", "app:shop=rw", env=dev).out.strip()
