"""A machine restores acknowledged writes to an old, damaged or lost volume, and refuses another journal's volume."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.end_to_end.node import NAME, Node, failed_start
from tests.regions.cluster import REFUSAL_TIMEOUT_MS, Cluster, until
from tests.regions.ledger import Ledger
from tests.replication.seaweed import Seaweed, make_bucket, now_ms
from tkdb import errors
from tkdb.authority.clock import Clock
from tkdb.authority.genesis import begin
from tkdb.database.database import Database
from tkdb.journal.seal import SealKey, SealKeys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(s3_server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), make_bucket(s3_server), size=2) as cluster:
        yield cluster


@pytest.fixture
def replica(running: Cluster, ledger: Ledger) -> Node:
    """The machine that isn't primary. It is fresh, and tests leave it running."""
    primary = running.settled()
    return next(node for name, node in running.nodes.items() if name != primary)


def clear(node: Node, pattern: str = "*") -> None:
    """Delete the matching files of a machine's volume, except its log."""
    for path in node.database.parent.glob(pattern):
        if path.is_dir():
            shutil.rmtree(path)
        elif path != node.log:
            path.unlink()


def damage(database: Path) -> None:
    """Overwrite the journal's pages without SQLite, and make every process with the database open read them again."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        roots = {
            root for (root,) in connection.execute("SELECT rootpage FROM sqlite_schema WHERE tbl_name = 'journal'")
        }
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        with database.open("r+b") as file:
            for root in roots:
                file.seek((root - 1) * size)
                file.write(os.urandom(size))
        _damage_log(database.with_name(f"{database.name}-wal"), size, roots)
        connection.execute(f"PRAGMA user_version = {version}")


def _damage_log(log: Path, size: int, pages: set[int]) -> None:
    """Overwrite the same pages in the write-ahead log. It has a header of 32 bytes, then frames: 24 bytes and a page.

    https://www.sqlite.org/fileformat2.html#the_write_ahead_log
    """
    if not log.exists():
        return
    with log.open("r+b") as file:
        for at in range(32, log.stat().st_size, 24 + size):
            file.seek(at)
            if int.from_bytes(file.read(4)) in pages:
                file.seek(at + 24)
                file.write(os.urandom(size))


async def begin_another(database: Path, seal: SealKey) -> bytes:
    """Begin another journal of the same authority, and return its id."""
    async with await Database.open(database) as opened:
        clock = Clock(now_ms, now_ms)
        return (await begin(opened, NAME, SealKeys([seal]), clock, os.urandom)).journal


async def journal_of(database: Path) -> bytes:
    async with await Database.open(database) as opened:
        return (await opened.load()).journal


def name_of(cluster: Cluster, node: Node) -> str:
    return next(name for name, each in cluster.nodes.items() if each is node)


def test_a_volume_older_than_recent_is_restored_from_the_bucket(
    running: Cluster, ledger: Ledger, replica: Node
) -> None:
    name, primary = name_of(running, replica), running.primary()
    position = running.status(name).position
    replica.kill()
    with running.nodes[primary].client(timeout_ms=30_000) as client:
        ledger.write(client, "while-away")
        ledger.fill(client, "while-away")
    until(lambda: running.head.head().recent[0].seq > position + 1)
    replica.start()
    ledger.assert_kept(name)
    assert "restored" in running.log(name)


@pytest.mark.parametrize("lost", ["*", "tkdb.db.machine", "tkdb.db"])
def test_a_volume_that_is_lost_in_whole_or_in_part_is_restored(
    running: Cluster, ledger: Ledger, replica: Node, lost: str
) -> None:
    replica.kill()
    clear(replica, lost)
    replica.start()
    ledger.assert_kept(name_of(running, replica))


def test_a_damaged_volume_file_is_ignored_and_logged(running: Cluster, ledger: Ledger, replica: Node) -> None:
    replica.kill()
    replica.database.with_name("tkdb.db.machine").write_bytes(b"\x00\x01\x02\x03" + os.urandom(60))
    replica.start()
    ledger.assert_kept(name_of(running, replica))
    assert "volume file damaged" in running.log(name_of(running, replica))


def test_a_database_that_was_damaged_while_the_machine_was_down_is_set_aside_and_restored(
    running: Cluster, ledger: Ledger, replica: Node
) -> None:
    assert replica.stop() == 0
    damage(replica.database)
    replica.start()
    ledger.assert_kept(name_of(running, replica))
    assert "journal damaged" in running.log(name_of(running, replica))
    assert replica.database.with_name("tkdb.db.damaged").exists()


def test_a_replicas_database_that_is_damaged_while_it_runs_is_set_aside_and_restored(
    running: Cluster, ledger: Ledger, replica: Node
) -> None:
    name, primary = name_of(running, replica), running.primary()
    aside = replica.database.with_name("tkdb.db.damaged")
    aside.unlink(missing_ok=True)
    damage(replica.database)
    with running.nodes[primary].client() as client:
        ledger.write(client, "after-damage")
    until(aside.exists)
    ledger.assert_kept(name)
    assert replica.process.poll() is None


def test_a_primary_whose_database_is_damaged_while_it_runs_is_replaced(
    running: Cluster, ledger: Ledger, replica: Node
) -> None:
    primary = running.primary()
    damage(running.nodes[primary].database)
    with running.nodes[primary].client(timeout_ms=500) as client, pytest.raises(errors.TkdbError):
        client.create_organization("unacknowledged")
    until(lambda: running.status(name_of(running, replica)).role == "primary")
    running.settled()
    with replica.client() as client:
        ledger.write(client, "another-leads")
    ledger.assert_kept()


def test_another_programs_file_in_place_of_the_database_is_refused_and_left_unchanged(
    running: Cluster, replica: Node
) -> None:
    assert replica.stop() == 0
    kept = replica.database.read_bytes()
    replica.database.write_bytes(b"not a database " * 1_000)
    code, output = failed_start(running.environment(name_of(running, replica)))
    assert code == 2
    assert "is not a tkdb database" in output
    assert replica.database.read_bytes() == b"not a database " * 1_000
    replica.database.write_bytes(kept)
    replica.start()
    running.settled()


def test_a_volume_of_another_cluster_is_refused_and_left_unchanged(
    running: Cluster, ledger: Ledger, replica: Node, tmp_path: Path
) -> None:
    name = name_of(running, replica)
    assert replica.stop() == 0
    shutil.copytree(replica.database.parent, tmp_path / "own")
    clear(replica)
    journal = asyncio.run(begin_another(replica.database, running.keys.seal))
    replica.start()
    until(lambda: "this machine's volume to another" in running.readyz(name)[1])
    assert "use a volume and a bucket of the same journal" in running.status(name).fault
    with replica.client(timeout_ms=REFUSAL_TIMEOUT_MS) as holder, pytest.raises(errors.StaleAuthority):
        holder.verify(ledger.token)
    replica.kill()
    assert asyncio.run(journal_of(replica.database)) == journal
    clear(replica)
    shutil.copytree(tmp_path / "own", replica.database.parent, dirs_exist_ok=True)
    replica.start()
    ledger.assert_kept(name)


def test_a_second_process_on_one_volume_is_refused(running: Cluster, replica: Node) -> None:
    code, output = failed_start(running.environment(name_of(running, replica)))
    assert (code, "another process writes" in output) == (3, True)
    assert running.status(name_of(running, replica)).fault == ""


def test_two_machines_with_the_same_name_are_never_primary_together(running: Cluster, ledger: Ledger) -> None:
    primary = running.settled()
    twin = running.node("twin", running.bucket, TKDB_MACHINE=primary)
    with twin, twin.client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
        until(lambda: not client.status().fault)
        assert client.status().role == "replica"
        with pytest.raises(errors.NoPrimary):
            client.create_organization("by-the-twin")
        assert running.status(primary).role == "primary"
    ledger.assert_kept()
