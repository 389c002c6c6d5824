"""``tkdb init`` makes one head for a bucket, with a backup that was restored and checked."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

from tests.cli.processes import BARE, TKDB, tkdb
from tests.replication.faults import FaultyProxy, StoreFault
from tests.replication.operator import alter, environment, head_in, keys_in, single_machine, write
from tests.replication.seaweed import Seaweed
from tkdb.database.database import Database
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.node.volume_file import VolumeFile
from tkdb_replication.protocol.head import NOBODY
from tkdb_replication.protocol.reader import Volume


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


def test_a_second_init_is_refused_and_names_the_existing_head(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    assert tkdb("init", env=env).code == 0
    before = keys_in(empty_bucket)
    again = tkdb("init", env=env)
    assert (again.code, again.out) == (1, "")
    assert "the bucket has a head: epoch 1, entry 1, without a primary" in again.err
    assert keys_in(empty_bucket) == before


def test_of_three_concurrent_inits_exactly_one_makes_the_head(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    racing = [
        subprocess.Popen([TKDB, "init", "--json"], env=BARE | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in racing]
    assert sorted(process.returncode for process in racing) == [0, 1, 1]
    [winner] = [document for document in documents if "base" in document]
    assert head_in(empty_bucket, env).base == winner["base"]
    assert {document["error"]["code"] for document in documents if document is not winner} == {"conflict"}


def test_a_single_machine_becomes_a_cluster_with_all_its_entries(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    alone = {name: value for name, value in env.items() if not name.startswith(("AWS_", "BUCKET_"))}
    entries = single_machine(alone, organizations=3)
    document = json.loads(tkdb("init", "--json", env=env).out)
    assert (document["begun"], document["head"]["seq"]) == (False, entries)
    assert head_in(empty_bucket, env).hash.hex() == document["head"]["hash"]
    assert {path.name for path in tmp_path.iterdir() if path.name != "keys"} <= {"tkdb.db", "tkdb.db.lock"}


def test_init_refuses_a_database_that_is_in_use(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    single_machine(env)

    async def trial() -> None:
        async with await Database.open(Path(env["TKDB_DB"])):
            refused = await asyncio.to_thread(tkdb, "init", env=env)
            assert refused.code == 3
            assert "another process writes" in refused.err

    asyncio.run(trial())
    assert keys_in(empty_bucket) == []


def test_init_refuses_another_authoritys_database(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    single_machine(env)
    refused = tkdb("init", env=env | {"TKDB_NAME": "other.example"})
    assert refused.code == 2
    assert "not to other.example" in refused.err
    assert keys_in(empty_bucket) == []


def test_init_refuses_the_database_of_a_clusters_machine(empty_bucket: Bucket, tmp_path: Path) -> None:
    """Its journal may lack acknowledged entries, and a new head would present it as complete."""
    env = environment(empty_bucket, tmp_path)
    single_machine(env)
    volume = VolumeFile(Path(env["TKDB_DB"]))

    async def journal() -> bytes:
        async with await Database.open(Path(env["TKDB_DB"])) as database:
            return (await database.load()).journal

    volume.write(Volume(journal=asyncio.run(journal()), rev=3))
    refused = tkdb("init", env=env)
    assert refused.code == 1
    assert "tkdb recover --from volume" in refused.err
    assert keys_in(empty_bucket) == []


def test_init_begins_a_journal_if_the_database_is_an_empty_file(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    Path(env["TKDB_DB"]).touch()
    assert json.loads(tkdb("init", "--json", env=env).out)["begun"]


def test_init_refuses_an_altered_journal(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    single_machine(env)
    alter(Path(env["TKDB_DB"]))
    refused = tkdb("init", env=env)
    assert refused.code == 1
    assert "entry 2" in refused.err
    assert "head" not in keys_in(empty_bucket)


def test_init_does_not_overwrite_an_invalid_head(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    write(empty_bucket, HEAD_KEY, b"someone's")
    refused = tkdb("init", env=env)
    assert refused.code == 3
    assert "that can't be used" in refused.err
    assert keys_in(empty_bucket) == [HEAD_KEY]


def test_init_reports_an_unreachable_store(
    empty_bucket: Bucket, s3_server: Seaweed, proxy: FaultyProxy, tmp_path: Path
) -> None:
    env = environment(s3_server.bucket(empty_bucket.name, proxy.url), tmp_path)
    proxy.fault = StoreFault.CUT
    refused = tkdb("init", env=env)
    assert refused.code == 3
    assert "couldn't be reached" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_init_reports_a_missing_variable(tmp_path: Path, empty_bucket: Bucket) -> None:
    env = environment(empty_bucket, tmp_path)
    missing = tkdb("init", env={name: value for name, value in env.items() if name != "BUCKET_NAME"})
    assert (missing.code, missing.out) == (2, "")
    assert "BUCKET_NAME is missing" in missing.err
    assert tkdb("init", env={}).code == 2
