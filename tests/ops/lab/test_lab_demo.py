"""``make demo`` shows the whole pattern, checks its own claims, and cleans up, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import BARE
from tkdb_ops.flycast import namespaces

DEMO = Path(__file__).parents[3] / "docs" / "demo.py"
RUN = [sys.executable, "-m", "tests.forks.run"]
CHANGED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("demo", sys.argv[1])
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
demo.APP_IN = "fra"
sys.exit(demo.run())
"""
SHOWN = [
    *(["up"] * 5),
    *("nearest", "create", "mint", "narrow", "verify", "verify", "clear", "denied", "revoke", "refused"),
    *("kill", "calls", "kill", "calls", "refused", "start", "calls", "done"),
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.usefixtures("needs_lab_programs")]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The demo's folder for temporary files. Its path is short because it will contain sockets."""
    with tempfile.TemporaryDirectory(prefix="tkdb-") as folder:
        yield Path(folder)


@pytest.fixture
def environment(temporary: Path) -> dict[str, str]:
    return BARE | {"TMPDIR": str(temporary)}


def on_loopback(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment without ``ip`` and ``unshare``, so that the regions are loopback addresses."""
    return environment | {"PATH": str(tmp_path_factory.mktemp("bin"))}


def shown(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()]


def test_the_demo_shows_the_whole_pattern(environment: dict[str, str], temporary: Path) -> None:
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")
    done = subprocess.run([*RUN, str(DEMO)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert shown(done.stdout) == SHOWN
    assert list(temporary.iterdir()) == []


def test_without_namespaces_the_demo_lists_what_is_not_emulated(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bare = on_loopback(environment, tmp_path_factory)
    done = subprocess.run([*RUN, str(DEMO)], env=bare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [word for word in shown(done.stdout) if word != "but"] == SHOWN
    assert "not emulated here: " in done.stdout


def test_an_unexpected_result_fails_the_demo_with_the_expectation(
    environment: dict[str, str], temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The app is moved to Frankfurt, where Amsterdam serves it instead of Sydney."""
    changed = tmp_path_factory.mktemp("changed") / "changed.py"
    changed.write_text(CHANGED)
    done = subprocess.run(
        [*RUN, str(changed), str(DEMO)],
        env=on_loopback(environment, tmp_path_factory), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "the demo failed: expected: a caller in fra is served by syd\n")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(
    number: signal.Signals, environment: dict[str, str], temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    demo = subprocess.Popen(
        [*RUN, str(DEMO)],
        env=on_loopback(environment, tmp_path_factory), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert demo.stdout is not None
    while "a proxy" not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(number)
    out, err = demo.communicate(timeout=100)
    assert (demo.returncode, err) == (130, "")
    assert "nothing is left running" in out
    assert list(temporary.iterdir()) == []
