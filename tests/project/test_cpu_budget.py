"""The CPU time of the test run includes workers, children and earlier checks, and a run over its budget fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cpu, metered

ROOT = Path(__file__).parents[2]

# The figures are read in ticks of 10 ms, rounded down. So a child uses a few ticks more than a test asserts.
BURN = "import time\nwhile time.process_time() < {} + 0.05: pass\n"

WAITED = f"""
import subprocess, sys

def test_a_child_is_waited_for():
    subprocess.run([sys.executable, "-I", "-S", "-c", {BURN.format(0.6)!r}], check=True)
"""

RUNNING = f"""
import subprocess, sys, pytest

@pytest.fixture(scope="session")
def child():
    code = {BURN.format(0.4) + "print(flush=True); input()"!r}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=-1, stdout=-1) as process:
        yield process

def test_a_child_outlives_its_file(child):
    child.stdout.readline()
"""

IDLE = """
def test_nothing():
    pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of three files: one waits for its child, one has a child until the session ends, and one is idle."""
    (tmp_path / "conftest.py").write_text(
        "from tests.cpu import add_option as pytest_addoption, install as pytest_configure\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, text in {"running": RUNNING, "waited": WAITED, "xidle": IDLE}.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    return tmp_path


def run_suite(suite: Path, *options: str) -> tuple[int, dict[str, float], str]:
    """Run a suite, and return the exit code, the figure of each file, and the report."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=suite, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    figures = json.loads((suite / ".pytest_cache" / "v" / "cpu").read_text())
    return done.returncode, figures, done.stdout


def test_children_are_charged_to_their_file_whether_or_not_they_have_ended(suite: Path) -> None:
    code, figures, report = run_suite(suite)
    assert code == 0, report
    assert figures["test_waited.py"] >= 0.6
    assert figures["test_running.py"] >= 0.4
    assert figures["test_xidle.py"] < 0.4
    assert "in all\n" in report


def test_a_run_over_its_budget_fails_and_names_the_most_expensive_file(suite: Path) -> None:
    code, figures, report = run_suite(suite, "--cpu-budget", "1")
    assert code == 1
    assert sum(figures.values()) > 1
    assert "test_waited.py" in report
    assert "over its CPU budget" in report


def test_the_sum_includes_the_workers_and_the_earlier_checks(suite: Path) -> None:
    folder = suite / metered.FOLDER
    folder.mkdir(parents=True)
    (folder / "mypy").write_text("40.00")
    code, figures, report = run_suite(suite, "-p", "xdist", "-n", "2", "--dist", "loadfile", "--cpu-budget", "40")
    assert code == 1, report
    assert figures["test_waited.py"] >= 0.6
    assert figures["(mypy)"] == 40
    assert figures[cpu.CONTROLLER] > 0


def test_a_wrapped_command_keeps_its_exit_code_and_records_its_cpu_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrapped = [sys.executable, "-I", "-S", metered.__file__, "check", sys.executable, "-I", "-S", "-c"]
    done = subprocess.run([*wrapped, BURN.format(0.3) + "raise SystemExit(3)"], check=False)
    assert done.returncode == 3
    assert cpu.metered(metered.FOLDER)["(check)"] >= 0.3
