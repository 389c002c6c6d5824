"""docs/recovery.md is true: each command that it shows is run after the preparation of its section."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.console import normalize, read
from tests.cli.processes import BARE
from tests.forks import popen
from tests.replication.operator import delete, environment, make_cluster, run_primary
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.protocol.head import Head

DOCS = Path(__file__).parents[3] / "docs" / "recovery.md"


def act_as_primary(bucket: Bucket, env: dict[str, str], *, synced: int, unsynced: int) -> Head:
    """Act as the primary m1, whose database is ``m1/tkdb.db``, and return the last head that it puts."""
    make_cluster(bucket, env)
    volume = Path(env["TKDB_DB"]).with_name("m1")
    volume.mkdir()
    return asyncio.run(run_primary(bucket, env, volume / "tkdb.db", synced=synced, unsynced=unsynced))


def without_head(bucket: Bucket, env: dict[str, str]) -> None:
    act_as_primary(bucket, env, synced=2, unsynced=2)
    delete(bucket, HEAD_KEY)


def without_base(bucket: Bucket, env: dict[str, str]) -> None:
    delete(bucket, act_as_primary(bucket, env, synced=0, unsynced=2).base)


PREPARATIONS: dict[str, Callable[[Bucket, dict[str, str]], object]] = {
    "Create a cluster": lambda bucket, env: None,
    "The head is lost": without_head,
    "The head's backup is lost": without_base,
    "Check a healthy cluster": make_cluster,
}


def test_every_section_with_a_command_is_run() -> None:
    assert {shown.section for shown in read(DOCS.read_text())} == set(PREPARATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("section", PREPARATIONS)
def test_every_command_gives_the_output_that_the_docs_show(section: str, empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    PREPARATIONS[section](empty_bucket, env)
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
        assert normalize(done.stdout.rstrip("\n")) == normalize(shown.output), shown.command
        assert done.returncode == shown.code
