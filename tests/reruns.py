"""A record of each test that failed and was run again, so that a fault that appears only sometimes isn't lost.

`make test` keeps the text of each failure. `make again`, which CI runs after a failure, runs those tests once more,
appends a line for each to `reruns.jsonl`, and ends its report with the first failures. So they are the last lines of
the CI log, even if every test passes the second time. Each line is a fault to be found.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import pytest

RECORD: Final = Path("reruns.jsonl")
KEY: Final = "first_failures"
TEXT_MAX: Final = 20_000
"""The limit of characters that are kept of a failure: the last ones, which contain the error."""


class Plugin:
    """The hooks: store the failures of a run, or record the tests that are run again."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._cache: Any = getattr(config, "cache", None)
        self._is_again = bool(config.getoption("--again"))
        self._first: dict[str, str] = self._cache.get(KEY, {}) if self._is_again and self._cache else {}
        self.failures: dict[str, str] = {}
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the failure of a test, or the error in its setup or teardown."""
        if report.failed:
            self.failures.setdefault(report.nodeid, report.longreprtext[-TEXT_MAX:])
        if report.failed or report.when == "call" or report.skipped:
            has_failed = self.outcomes.get(report.nodeid) == "failed"
            self.outcomes[report.nodeid] = "failed" if has_failed else report.outcome

    def pytest_sessionfinish(self) -> None:
        """Store the failures for a rerun, or record the tests that were run again."""
        if not self._is_again:
            if self._cache is not None and not hasattr(self._config, "workerinput"):
                self._cache.set(KEY, self.failures)
            return
        with (self._config.rootpath / RECORD).open("a", encoding="utf-8") as record:
            for test, outcome in self.outcomes.items():
                line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "test": test, "again": outcome}
                record.write(json.dumps(line | {"first": self._first.get(test, "")}) + "\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the first failure of each test that was run again."""
        if not self._is_again or not self.outcomes:
            return
        terminalreporter.section("run again: each first failure is a fault to be found")
        for test, outcome in self.outcomes.items():
            terminalreporter.line(f"{test}: failed, then {outcome}. The first failure:")
            terminalreporter.line(self._first.get(test, "its text was not kept"))
        terminalreporter.line(f"{len(self.outcomes)} tests, recorded in {RECORD}")


def add_option(parser: pytest.Parser) -> None:
    """Add the option that makes a run record its tests as reruns."""
    parser.addoption("--again", action="store_true", help="record each test as a rerun, with its first failure")


def install(config: pytest.Config) -> None:
    """Start to keep failures."""
    config.pluginmanager.register(Plugin(config), "tests.reruns")
