"""A scratch folder is its owner's for as long as that lives, wherever it lives, and no longer."""

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
SEES = "import os, sys; os.kill(int(sys.argv[1]), 0)"
APART = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where scratch folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """A process that owns a folder, and says which."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def owned(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def apart(*arguments: str) -> int:
    """Run Python in a PID namespace of its own, where no other process is seen; return the exit code."""
    if shutil.which("unshare") is None or subprocess.run([*APART, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no PID namespace can be made here")
    return subprocess.run([*APART, sys.executable, "-c", *arguments], check=False, capture_output=True).returncode


def test_a_folder_is_removed_by_its_owner_or_else_by_the_next(owner: subprocess.Popen[str]) -> None:
    folder = owned(owner)
    one = Scratch(PREFIX)
    assert (folder.is_dir(), one.path.is_dir()) == (True, True)
    owner.kill()
    owner.wait()
    other = Scratch(PREFIX)
    assert (folder.exists(), one.path.is_dir(), other.path.is_dir()) == (False, True, True)
    for each in (one, other):
        each.remove()
        assert not each.path.exists()


def test_a_living_owners_folder_is_left_alone_by_who_can_not_see_its_process(owner: subprocess.Popen[str]) -> None:
    folder = owned(owner)
    # By its process id, the owner would be taken for ended.
    assert apart(SEES, str(owner.pid)) != 0
    assert apart(SWEEP) == 0
    assert folder.is_dir()


def test_what_is_no_ended_owners_is_left_alone(folders: Path) -> None:
    half_made, elsewhere = folders / f"{PREFIX}made", folders / "elsewhere"
    half_made.mkdir()
    elsewhere.mkdir()
    (elsewhere / "owner").touch()
    (folders / f"{PREFIX}link").symlink_to(elsewhere)
    sweep(PREFIX)
    assert half_made.is_dir()
    assert (elsewhere / "owner").exists()


def test_a_folder_that_can_not_be_locked_is_not_left_behind(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        Scratch(PREFIX)
    assert list(folders.iterdir()) == []
