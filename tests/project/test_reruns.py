"""Each test that is run again is recorded with its first failure, whether or not it then passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reruns import RECORD

ROOT = Path(__file__).parents[2]

CONFTEST = """
from tests.reruns import add_option as pytest_addoption, install as pytest_configure
"""

SUITE = """
from pathlib import Path

def test_fails_once():
    marker = Path("ran")
    before = marker.exists()
    marker.touch()
    assert before, "the first time"

def test_fails_always():
    assert False, "every time"

def test_passes():
    pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite in which one test fails the first time, and another fails every time."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_some.py").write_text(SUITE)
    return tmp_path


def run_suite(suite: Path, *options: str) -> tuple[int, str]:
    """Run a suite, and return the exit code and the report."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=suite, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_each_rerun_is_recorded_and_shown_with_its_first_failure(suite: Path) -> None:
    assert run_suite(suite)[0] == 1
    assert not (suite / RECORD).exists()
    code, report = run_suite(suite, "--last-failed", "--again")
    assert code == 1
    lines = [json.loads(line) for line in (suite / RECORD).read_text().splitlines()]
    assert [(line["test"], line["again"]) for line in lines] == [
        ("test_some.py::test_fails_once", "passed"),
        ("test_some.py::test_fails_always", "failed"),
    ]
    assert "the first time" in lines[0]["first"]
    end = report.partition("run again: each first failure is a fault to be found")[2]
    assert "the first time" in end
    assert "test_fails_once: failed, then passed" in end


def test_ci_reruns_failures_by_the_target_that_records_them(suite: Path) -> None:
    assert "make again" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    target = makefile.partition("\nagain:")[2].partition("\n\n")[0]
    assert "--again" in target
    assert "--last-failed" in target
    assert RECORD.name in (ROOT / ".gitignore").read_text().splitlines()
