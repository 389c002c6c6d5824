"""``tkdb init``: one head for a bucket, and behind it a backup that was proved to work."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.replication.operator import environment, head_in, keys_in, write
from tests.cli.processes import BARE, TKDB, tkdb
from tests.replication.faults import Fault, FaultyProxy
from tkdb_replication.bucket import Bucket
from tkdb_replication.head import NOBODY
from tkdb_replication.head_object import HEAD_KEY


def test_init_makes_a_head_whose_base_restores_and_leaves_nothing_on_the_disk(
    empty_bucket: Bucket, tmp_path: Path
) -> None:
    env = environment(empty_bucket, tmp_path)
    done = tkdb("init", "--json", env=env)
    assert (done.code, done.err) == (0, "next: tkdb serve, on each machine\n")
    document = json.loads(done.out)
    head = head_in(empty_bucket, env)
    assert (head.owner, head.machine, head.rev, head.epoch, head.seq) == (NOBODY, "", 0, 1, 1)
    assert (document["base"], document["journal"], document["begun"]) == (head.base, head.journal.hex(), True)
    assert {key.partition("/")[0] for key in keys_in(empty_bucket)} == {"head", "epochs"}
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
    assert json.loads(tkdb("recover", "--json", env=env).out)["plan"] == "nothing"


def test_a_second_init_names_the_head_that_is_there(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    assert tkdb("init", env=env).code == 0
    before = keys_in(empty_bucket)
    again = tkdb("init", env=env)
    assert (again.code, again.out) == (1, "")
    assert "the bucket has a head: epoch 1, entry 1, without a primary" in again.err
    assert keys_in(empty_bucket) == before
