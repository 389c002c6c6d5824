"""docs/recovery.md is true: each command that it shows is run, after what its section is about has happened."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.console import alike, read
from tests.cli.processes import BARE
from tests.forks import popen
from tests.replication.operator import delete, environment, make_cluster, run_primary
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.protocol.head import Head

DOCS = Path(__file__).parents[3] / "docs" / "recovery.md"


def led(bucket: Bucket, env: dict[str, str], *, synced: int, unsynced: int) -> Head:
    """Return the head that machine m1 left; its disk is ``m1/tkdb.db``."""
    make_cluster(bucket, env)
    volume = Path(env["TKDB_DB"]).with_name("m1")
    volume.mkdir()
    return asyncio.run(run_primary(bucket, env, volume / "tkdb.db", synced=synced, unsynced=unsynced))


def without_head(bucket: Bucket, env: dict[str, str]) -> None:
    led(bucket, env, synced=2, unsynced=2)
    delete(bucket, HEAD_KEY)


def without_base(bucket: Bucket, env: dict[str, str]) -> None:
    delete(bucket, led(bucket, env, synced=0, unsynced=2).base)


HAPPENED: dict[str, Callable[[Bucket, dict[str, str]], object]] = {
    "Create a cluster": lambda bucket, env: None,
    "The head is lost": without_head,
    "The head's backup is lost": without_base,
    "Check a healthy cluster": make_cluster,
}


def test_every_section_with_a_command_is_run() -> None:
    assert {shown.section for shown in read(DOCS.read_text())} == set(HAPPENED)


@pytest.mark.slow
@pytest.mark.parametrize("section", HAPPENED)
def test_every_command_shown_answers_as_shown(section: str, empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    HAPPENED[section](empty_bucket, env)
    path = f"{popen.on_path()}:{os.environ['PATH']}"
    for shown in [each for each in read(DOCS.read_text()) if each.section == section]:
        done = subprocess.run(
            ["bash", "-c", f"{shown.command} 2>&1"],
            cwd=tmp_path,
            env=BARE | env | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert alike(done.stdout.rstrip("\n")) == alike(shown.output), shown.command
        assert done.returncode == shown.code
