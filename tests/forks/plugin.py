"""The fork server as a pytest plugin: it starts with the session, and a marker turns it off for a test."""

from __future__ import annotations

import pytest

from tests import profiles
from tests.forks import child, popen, server


class Plugin:
    """The hooks: replace the step that makes a child, for the test session."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Give a test real starts and whole probes if it asks for them."""
        is_real = item.get_closest_marker("real_start") is not None
        popen.FORKS.enabled = not is_real
        profiles.shorten_probe(profiles.CURRENT.name, whole=is_real)

    def pytest_unconfigure(self) -> None:
        """End the fork server."""
        popen.uninstall()


def install(config: pytest.Config) -> None:
    """Fork from now on, on a system that can."""
    if server.works_here():
        config.pluginmanager.register(Plugin(), "tests.forks")
        popen.install()
        child.remember_missing_sniffio()
        child.remember_versions()
