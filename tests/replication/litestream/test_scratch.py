"""A scratch folder is kept while its owner lives, in any PID namespace, and is removed afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tkdb_replication.litestream.scratch import Scratch, sweep

PREFIX = "tkdb-scratch-"
OWNER = f"""
from tkdb_replication.litestream.scratch import Scratch
one = Scratch({PREFIX!r})
print(one.path, flush=True)
input()
"""
SWEEP = f"from tkdb_replication.litestream.scratch import sweep; sweep({PREFIX!r})"
SIGNAL = "import os, sys; os.kill(int(sys.argv[1]), 0)"
ISOLATED = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which the test makes its scratch folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """A process that owns a scratch folder, and prints the folder's path."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def folder_of(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def run_isolated(*arguments: str) -> int:
    """Run Python in a new PID namespace, where it sees no other process, and return its exit code."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*ISOLATED, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no PID namespace can be made here")
    return subprocess.run([*ISOLATED, sys.executable, "-c", *arguments], check=False, capture_output=True).returncode


def test_a_folder_is_removed_by_its_owner_or_by_the_next_owner(owner: subprocess.Popen[str]) -> None:
    folder = folder_of(owner)
    one = Scratch(PREFIX)
    assert (folder.is_dir(), one.path.is_dir()) == (True, True)
    owner.kill()
    owner.wait()
    other = Scratch(PREFIX)
    assert (folder.exists(), one.path.is_dir(), other.path.is_dir()) == (False, True, True)
    for each in (one, other):
        each.remove()
        assert not each.path.exists()


def test_a_live_owners_folder_is_kept_by_a_process_that_cannot_see_the_owner(owner: subprocess.Popen[str]) -> None:
    folder = folder_of(owner)
    # A check of the process id would conclude that the owner has ended.
    assert run_isolated(SIGNAL, str(owner.pid)) != 0
    assert run_isolated(SWEEP) == 0
    assert folder.is_dir()


def test_folders_that_no_ended_owner_left_are_kept(folders: Path) -> None:
    half_made, elsewhere = folders / f"{PREFIX}made", folders / "elsewhere"
    half_made.mkdir()
    elsewhere.mkdir()
    (elsewhere / "owner").touch()
    (folders / f"{PREFIX}link").symlink_to(elsewhere)
    sweep(PREFIX)
    assert half_made.is_dir()
    assert (elsewhere / "owner").exists()


def test_a_folder_that_cannot_be_locked_is_removed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        Scratch(PREFIX)
    assert list(folders.iterdir()) == []
