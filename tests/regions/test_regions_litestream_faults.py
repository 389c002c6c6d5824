"""If Litestream dies, hangs or can't work, a primary accepts writes while ``recent`` has room, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.node import Node
from tests.regions.cluster import REFUSAL_TIMEOUT_MS, Cluster, until
from tests.regions.ledger import Ledger
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb import errors
from tkdb_replication.litestream.config import local_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only on Linux: /proc shows which child is Litestream"),
]


@pytest.fixture(scope="module")
def running(s3_server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), make_bucket(s3_server), size=1) as cluster:
        yield cluster


def litestream(node: Node) -> int:
    """Return the id of the Litestream process that replicates a machine's database."""

    def found() -> int | None:
        children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
        return next((int(pid) for pid in children if b"replicate" in Path(f"/proc/{pid}/cmdline").read_bytes()), None)

    return until(found)


def unsynced(cluster: Cluster) -> bool:
    """Pause the current Litestream, and return True if the replication check reports that the backup is outdated."""
    os.kill(litestream(cluster.nodes["m1"]), signal.SIGSTOP)
    return "the backup hasn't been updated for" in cluster.replicating("m1")[1]


def test_a_killed_litestream_blocks_no_write_and_is_restarted(running: Cluster, ledger: Ledger) -> None:
    node = running.nodes["m1"]
    killed = litestream(node)
    os.kill(killed, signal.SIGKILL)
    with node.client() as client:
        ledger.write(client, "without")
        until(lambda: litestream(node) != killed)
        # More entries than ``recent`` has room for: those that left it are in the bucket.
        ledger.fill(client, "without")
    ledger.assert_kept()
    assert "litestream ended" in running.log("m1")


def test_writes_get_overloaded_while_litestream_hangs_and_recent_is_full(running: Cluster, ledger: Ledger) -> None:
    node = running.nodes["m1"]
    hung = litestream(node)
    os.kill(hung, signal.SIGSTOP)
    try:
        with node.client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
            ledger.write(client, "hung")
            with pytest.raises(errors.Overloaded, match="than Litestream can upload"):
                ledger.fill(client, "hung", entries=8)
            ledger.assert_kept()
        until(lambda: unsynced(running))
        assert running.readyz("m1")[0] == 200
    finally:
        os.kill(litestream(node), signal.SIGCONT)
    with node.client() as client:
        ledger.fill(client, "hung")
        ledger.write(client, "goes-on")
    ledger.assert_kept()
    assert running.status("m1").role == "primary"
    until(lambda: running.replicating("m1")[0] == 200)


def test_a_machine_without_a_working_litestream_is_not_primary_until_it_works(running: Cluster, ledger: Ledger) -> None:
    node = running.nodes["m1"]
    node.kill()
    folder = local_folder(node.database)
    shutil.rmtree(folder)
    folder.write_bytes(b"no folder")  # a file in its place can't be deleted as a folder
    node.start()
    until(lambda: "Litestream's folders can't be recreated" in running.log("m1"))
    ledger.assert_kept()
    with node.client(timeout_ms=REFUSAL_TIMEOUT_MS) as client, pytest.raises(errors.NoPrimary):
        client.create_organization("unacknowledged")
    folder.unlink()
    running.settled()
    with node.client() as client:
        ledger.write(client, "leads-again")
    ledger.assert_kept()
