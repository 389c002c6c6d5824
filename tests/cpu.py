"""The CPU time of the test run: measured for each test file, reported at the end, and compared with a budget.

A file's figure counts the process that runs the tests, every child that was waited for, and every descendant that
still runs. If no process waits for a descendant, its time is lost when it ends; an example is a child of a killed
machine. Under xdist each worker measures its files, and the controller adds the workers' figures and its own.

A figure is in CPU seconds, so other work on the same machine changes it little. `make test` also measures what runs
before pytest (`tests/metered.py`), and those figures are part of the sum.

Rules:

- Only `--cpu-budget` sets a budget, and only `make test` passes it. A run of a few files reports its figures, but never
  fails because of them.
- All figures of the last run are in `.pytest_cache/v/cpu`, the most expensive file first.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.metered import FOLDER as METERED
from tests.metered import own_s

REPORTED_FILES: Final = 10
"""The number of files that the report names."""

START: Final = "(imports and collection)"
CONTROLLER: Final = "(the controller of the workers)"

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def running_s(process: int, table: Path = Path("/proc")) -> float:
    """Return the CPU seconds of the descendants of ``process`` that still run, and of the children they waited for."""
    children: dict[int, list[tuple[int, int]]] = {}
    for folder in table.glob("[0-9]*"):
        try:
            # The command's name comes in parentheses, and may contain any byte.
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue  # The process ended while the table was read.
        children.setdefault(int(fields[1]), []).append((int(folder.name), sum(map(int, fields[11:15]))))
    ticks, waiting = 0, [process]
    while waiting:
        for child, spent in children.get(waiting.pop(), []):
            ticks += spent
            waiting.append(child)
    return ticks / TICKS_PER_S


class Meter:
    """The CPU seconds that each test file has used so far."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._name = START
        self._read_s = 0.0

    def switch_to(self, name: str) -> None:
        """Charge the time since the last switch to the current file, and make ``name`` the current file."""
        read_s = own_s() + running_s(os.getpid())
        self.seconds[self._name] += max(0.0, read_s - self._read_s)
        self._name, self._read_s = name, read_s

    @property
    def name(self) -> str:
        """The file that is charged now."""
        return self._name


class Plugin:
    """The hooks: charge each file, collect the workers' figures, report, and fail over the budget."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._budget_s: float | None = config.getoption("--cpu-budget")
        self._is_worker = hasattr(config, "workerinput")
        self._has_workers = bool(getattr(config.option, "numprocesses", None)) and not self._is_worker
        self._meter = Meter()
        self.seconds: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, bool, bool]:
        """Charge a test to its file. The process table is read only when the file changes."""
        name = item.nodeid.partition("::")[0]
        if name != self._meter.name:
            self._meter.switch_to(name)
        return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the figures of a worker that has ended."""
        self.seconds.update(getattr(node, "workeroutput", {}).get("cpu", {}))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Read the last figures, store them, and fail a run that is over its budget."""
        if self._has_workers:
            # The workers are children, so only the controller's own time isn't counted yet.
            self.seconds[CONTROLLER] += sum(os.times()[:2])
        else:
            self._meter.switch_to("")
            self.seconds.update(self._meter.seconds)
        if self._is_worker:
            self._config.workeroutput["cpu"] = dict(self.seconds)  # type: ignore[attr-defined]  # xdist's
            return
        if self._budget_s is not None:
            self.seconds.update(metered(self._config.rootpath / METERED))
        cache = getattr(self._config, "cache", None)
        if cache is not None:
            cache.set("cpu", {name: round(spent, 2) for name, spent in self.seconds.most_common()})
        if self._is_over() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the most expensive files, the sum, and the budget if there is one."""
        write = terminalreporter
        write.section("CPU seconds, children included")
        for name, seconds in self.seconds.most_common(REPORTED_FILES):
            write.line(f"{seconds:8.1f}  {name}")
        limit = "" if self._budget_s is None else f" of at most {self._budget_s:g}"
        write.line(f"{self.seconds.total():8.1f}  in all{limit}", red=self._is_over())
        if self._is_over():
            write.line("The run is over its CPU budget: make a file use less. See tests/cpu.py.", red=True)

    def _is_over(self) -> bool:
        """Return True if there is a budget and the run used more."""
        return self._budget_s is not None and self.seconds.total() > self._budget_s


def metered(folder: Path) -> Mapping[str, float]:
    """Return the figures of the checks that ran before pytest, by name."""
    return {f"({path.name})": float(path.read_text()) for path in folder.glob("*") if path.is_file()}


def add_option(parser: pytest.Parser) -> None:
    """Add the option that sets a budget."""
    parser.addoption("--cpu-budget", type=float, metavar="SECONDS", help="fail if the run uses more CPU time")


def install(config: pytest.Config) -> None:
    """Start to measure."""
    config.pluginmanager.register(Plugin(config), "tests.cpu")
