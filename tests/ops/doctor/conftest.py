"""A fake of Fly's API for the doctor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_fly import FakeFly


@pytest.fixture
def fly() -> Iterator[FakeFly]:
    with FakeFly() as fly:
        yield fly
