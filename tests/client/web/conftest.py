"""Fixtures: a new authority and its client for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tkdb_client import AsyncClient, Client, Policy
from tkdb_client.testing import Authority


@pytest.fixture
def authority() -> Iterator[Authority]:
    with Authority("acme") as authority:
        yield authority


@pytest.fixture(params=["blocking", "awaited"])
def client(request: pytest.FixtureRequest, authority: Authority) -> Client | AsyncClient:
    """The client of the app, of either kind."""
    policy = Policy(organization="acme", clock=lambda: 0.0, audience="shop")
    return authority.client(policy=policy) if request.param == "blocking" else authority.async_client(policy=policy)
