"""A ``tkdb dev`` for the whole session, and a token from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.processes import exports, quick, running


@pytest.fixture(scope="session")
def dev() -> Iterator[dict[str, str]]:
    """Yield the variables that a running ``tkdb dev`` prints, without its token."""
    with running("dev") as process:
        found = exports(process)
        del found["TKDB_TOKEN"]
        yield found


@pytest.fixture
def token(dev: dict[str, str]) -> str:
    """Return a token of the organization ``dev`` that allows reads and writes of app shop."""
    return quick("token", "mint", "dev", "--action", "rw", "--resource", "app:shop=rw", env=dev).out.strip()
