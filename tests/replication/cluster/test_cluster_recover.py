"""``tkdb recover`` loses no entry that still exists. It reports a possible loss, which the operator must accept."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.processes import BARE, TKDB, CommandResult, tkdb
from tests.replication.faults import FaultyProxy, StoreFault
from tests.replication.operator import (
    alter,
    delete,
    environment,
    head_in,
    head_keys,
    keys_in,
    make_cluster,
    open_cluster,
    read,
    run_primary,
    write,
)
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb.authority.genesis import check
from tkdb.database.database import Database
from tkdb.journal.seal import SealKeys
from tkdb_replication.bucket.paths import HEAD_KEY, fresh_base
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.cluster.backups import back_up
from tkdb_replication.litestream.binary import Program
from tkdb_replication.protocol.head import NOBODY, Head, encode_head


@pytest.fixture
def env(empty_bucket: Bucket, tmp_path: Path) -> dict[str, str]:
    """The environment of an operator, with a new cluster."""
    env = environment(empty_bucket, tmp_path)
    make_cluster(empty_bucket, env)
    return env


def recover(env: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    done = tkdb("recover", "--json", *arguments, env=env)
    return done.code, json.loads(done.out)


def refusal(env: dict[str, str], *arguments: str) -> CommandResult:
    done = tkdb("recover", *arguments, env=env)
    assert done.out == ""
    return done


def act_as_primary(bucket: Bucket, env: dict[str, str], name: str = "m1.db", **counts: int) -> Head:
    """Act as a primary whose database is ``name``, and return the last head that it puts."""
    database = Path(env["TKDB_DB"]).with_name(name)
    return asyncio.run(run_primary(bucket, env, database, **counts))


def on_machine(env: dict[str, str], name: str = "m1.db") -> dict[str, str]:
    """Return the environment on the machine whose database is ``name``."""
    return env | {"TKDB_DB": str(Path(env["TKDB_DB"]).with_name(name))}


def check_base(env: dict[str, str], bucket: Bucket, tmp_path: Path) -> tuple[bytes, int]:
    """Check that the head's base restores to a valid journal. Return the journal's id and its last position."""
    target = tmp_path / "checked" / "tkdb.db"
    target.parent.mkdir(exist_ok=True)

    base = head_in(bucket, env).base

    async def run() -> tuple[bytes, int]:
        async with open_cluster(bucket, env) as cluster:
            await cluster.restore(base, target, backup_bytes=0)
        async with await Database.open(target) as database:
            state = await database.load()
            await check(database, state, env["TKDB_NAME"], SealKeys.parse(env["TKDB_SEAL_KEYS"]))
            return state.journal, state.head.seq

    try:
        return asyncio.run(run())
    finally:
        shutil.rmtree(target.parent)


def test_a_healthy_cluster_is_recovered_only_with_force(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = act_as_primary(empty_bucket, env, synced=2, unsynced=2)
    before = keys_in(empty_bucket)
    code, document = recover(env)
    assert (code, document["plan"], document["recovered"]) == (1, "nothing", None)
    assert keys_in(empty_bucket) == before
    code, document = recover(env, "--force")
    assert (code, document["plan"]) == (0, "resume")
    after = head_in(empty_bucket, env)
    assert (after.place, after.journal, after.recent) == (head.place, head.journal, head.recent)
    assert (after.rev, after.epoch, after.owner, after.machine) == (head.rev + 1, head.epoch + 1, NOBODY, "")
    assert check_base(env, empty_bucket, tmp_path) == (head.journal, head.seq)


def test_a_lost_head_is_recovered_once_the_loss_is_accepted(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = act_as_primary(empty_bucket, env, synced=3, unsynced=2)
    delete(empty_bucket, HEAD_KEY)
    before = keys_in(empty_bucket)
    code, document = recover(env)
    assert (code, document["head"], document["plan"], document["recovered"]) == (1, "lost", "renew", None)
    assert (document["may_be_lost_after"]["seq"], document["may_be_lost_after"]["source"]) == (4, head.base)
    assert keys_in(empty_bucket) == before
    code, document = recover(env, "--accept-loss")
    assert code == 0
    after = head_in(empty_bucket, env)
    assert (after.seq, after.epoch, after.owner, after.machine, after.recent) == (5, head.epoch + 1, NOBODY, "", ())
    assert after.journal != head.journal
    assert check_base(env, empty_bucket, tmp_path) == (after.journal, 5)
    assert recover(env)[1]["plan"] == "nothing"


def test_recover_reports_the_possible_loss_and_the_next_steps(empty_bucket: Bucket, env: dict[str, str]) -> None:
    act_as_primary(empty_bucket, env, synced=1)
    delete(empty_bucket, HEAD_KEY)
    refused = tkdb("recover", env=env)
    assert refused.code == 1
    assert "entries acknowledged after entry 2 (" in refused.out
    assert "at most 256 entries" in refused.out
    assert "a token that one of them revoked is valid again" in refused.out
    assert "to accept the loss: tkdb recover --accept-loss" in refused.err
    done = tkdb("recover", "--accept-loss", env=env)
    assert "delete TKDB_DB" in done.err
    assert "revoke again everything that was revoked since" in done.err


@pytest.mark.slow
def test_an_altered_head_is_kept_under_another_key_and_not_used(empty_bucket: Bucket, env: dict[str, str]) -> None:
    body = bytearray(read(empty_bucket, HEAD_KEY))
    body[60] ^= 1
    write(empty_bucket, HEAD_KEY, bytes(body))
    code, document = recover(env | {"TKDB_LEASE_MS": "3000"}, "--accept-loss")
    assert (code, document["head"], document["plan"]) == (0, "damaged", "renew")
    [kept] = keys_in(empty_bucket, "heads/damaged-")
    assert kept == document["recovered"]["kept"]
    assert read(empty_bucket, kept) == bytes(body)
    assert head_in(empty_bucket, env).seq == 2


def test_with_another_sealing_secret_recover_is_refused_and_changes_nothing(
    empty_bucket: Bucket, env: dict[str, str]
) -> None:
    before, head = keys_in(empty_bucket), read(empty_bucket, HEAD_KEY)
    other = tkdb("keys", "generate", "--kind", "seal").out.strip()
    refused = refusal(env | {"TKDB_SEAL_KEYS": other}, "--accept-loss")
    assert refused.code == 3
    assert "none contains a valid journal" in refused.err
    assert "sealing secret" in refused.err
    assert other not in refused.err
    assert (keys_in(empty_bucket), read(empty_bucket, HEAD_KEY)) == (before, head)


def test_recover_refuses_the_backups_of_another_authority(empty_bucket: Bucket, env: dict[str, str]) -> None:
    delete(empty_bucket, HEAD_KEY)
    refused = refusal(env | {"TKDB_NAME": "other.example"}, "--accept-loss")
    assert refused.code == 3
    assert "not to other.example" in refused.err


def test_nothing_is_lost_if_an_older_backup_reaches_the_heads_recent_entries(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = act_as_primary(empty_bucket, env, synced=0, unsynced=4, unnamed=1)
    delete(empty_bucket, head.base)
    code, document = recover(env)
    assert (code, document["plan"], document["lost_at_least"]) == (0, "resume", 0)
    after = head_in(empty_bucket, env)
    assert (after.place, after.journal, after.rev) == (head.place, head.journal, head.rev + 1)
    assert check_base(env, empty_bucket, tmp_path) == (head.journal, head.seq)


def test_a_lost_base_that_no_backup_replaces_is_recovered_from_a_machines_volume(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = act_as_primary(empty_bucket, env, synced=4, unsynced=1, unnamed=2)
    delete(empty_bucket, head.base)
    code, document = recover(env)
    assert (code, document["plan"], document["lost_at_least"]) == (1, "renew", 5)
    before = Path(on_machine(env)["TKDB_DB"]).read_bytes()
    code, document = recover(on_machine(env), "--from", "volume")
    assert (code, document["plan"]) == (0, "resume")
    assert head_in(empty_bucket, env).place == head.place
    assert check_base(env, empty_bucket, tmp_path) == (head.journal, head.seq)
    assert Path(on_machine(env)["TKDB_DB"]).read_bytes() == before


def test_entries_that_only_a_volume_contains_are_recovered_if_the_head_is_lost(
    empty_bucket: Bucket, env: dict[str, str]
) -> None:
    act_as_primary(empty_bucket, env, synced=2, unsynced=3)
    delete(empty_bucket, HEAD_KEY)
    assert recover(env)[1]["may_be_lost_after"]["seq"] == 3
    code, document = recover(on_machine(env), "--from", "volume", "--accept-loss")
    assert (code, document["recovered"]["seq"]) == (0, 7)


def test_a_volume_that_is_in_use_missing_or_altered_is_refused(empty_bucket: Bucket, env: dict[str, str]) -> None:
    act_as_primary(empty_bucket, env, synced=2)
    delete(empty_bucket, HEAD_KEY)

    async def in_use() -> CommandResult:
        async with await Database.open(Path(on_machine(env)["TKDB_DB"])):
            return await asyncio.to_thread(refusal, on_machine(env), "--from", "volume", "--accept-loss")

    refused = asyncio.run(in_use())
    assert refused.code == 3
    assert "another process writes" in refused.err
    alter(Path(on_machine(env)["TKDB_DB"]))
    assert refusal(on_machine(env), "--from", "volume", "--accept-loss").code == 1
    missing = refusal(env, "--from", "volume", "--accept-loss")
    assert missing.code == 2
    assert not Path(env["TKDB_DB"]).exists()


async def _put_backup(bucket: Bucket, database: Path, epoch: int) -> str:
    """Put a database into the bucket as a backup, as an attacker who can write there could."""
    base = fresh_base(epoch, random_bytes=bytes)
    async with await Database.open(database, checkpoints=False):
        await back_up(await Program.find(), bucket, database, base, random_bytes=bytes)
    return base


def test_an_altered_backup_is_refused_though_its_epoch_is_the_newest(empty_bucket: Bucket, env: dict[str, str]) -> None:
    head = act_as_primary(empty_bucket, env, synced=2)
    forged = Path(on_machine(env)["TKDB_DB"])
    with closing(sqlite3.connect(forged)) as connection:
        connection.execute("DELETE FROM root_keys")
        connection.execute("DELETE FROM journal WHERE seq = 3")
        connection.commit()
    planted = asyncio.run(_put_backup(empty_bucket, forged, epoch=99))
    delete(empty_bucket, HEAD_KEY)
    code, document = recover(env, "--accept-loss")
    assert code == 0
    assert [each["source"] for each in document["refused"]] == [planted]
    assert document["refused"][0]["code"] == "broken journal"
    assert document["may_be_lost_after"]["source"] == head.base
    assert document["recovered"]["epoch"] == 100


def test_a_damaged_backup_is_skipped(empty_bucket: Bucket, env: dict[str, str]) -> None:
    first = head_in(empty_bucket, env)
    head = act_as_primary(empty_bucket, env, synced=2)
    delete(empty_bucket, HEAD_KEY)
    for key in keys_in(empty_bucket, head.base):
        write(empty_bucket, key, read(empty_bucket, key)[:-40])
    code, document = recover(env, "--accept-loss")
    assert code == 0
    assert [each["code"] for each in document["refused"]] == ["restore failed"]
    assert document["may_be_lost_after"]["source"] == first.base


def test_of_two_histories_the_later_primarys_is_used_and_the_divergence_is_reported(
    empty_bucket: Bucket, env: dict[str, str]
) -> None:
    shared = act_as_primary(empty_bucket, env, synced=2)
    deposed = act_as_primary(empty_bucket, env, "deposed.db", synced=5)
    write(empty_bucket, HEAD_KEY, encode_head(msgspec.structs.replace(shared, epoch=8, rev=8), head_keys(env)))
    later = act_as_primary(empty_bucket, env, "later.db", synced=1)
    delete(empty_bucket, HEAD_KEY)
    code, document = recover(env)
    assert code == 1
    assert document["may_be_lost_after"]["source"] == later.base
    diverged = {each["source"]: each["diverges_after"] for each in document["candidates"]}
    assert (diverged[deposed.base], diverged[shared.base], diverged[later.base]) == (3, None, None)
    assert "diverges after entry 3" in tkdb("recover", env=env).out


def test_recover_does_not_continue_from_an_older_head(empty_bucket: Bucket, env: dict[str, str]) -> None:
    older = read(empty_bucket, HEAD_KEY)
    head = act_as_primary(empty_bucket, env, synced=3)
    write(empty_bucket, HEAD_KEY, older)
    code, document = recover(env)
    assert (code, document["head"], document["plan"]) == (1, "sound", "renew")
    assert document["may_be_lost_after"]["seq"] == head.seq
    assert "an older one that was put back" in tkdb("recover", env=env).out


def test_recover_is_refused_while_a_primary_is_alive(empty_bucket: Bucket, env: dict[str, str]) -> None:
    head = act_as_primary(empty_bucket, env, synced=1)
    ended = threading.Event()

    def renew() -> None:
        rev = head.rev
        while not ended.wait(0.3):
            rev += 1
            renewed = msgspec.structs.replace(head, rev=rev, attempt=rev.to_bytes(16, "big"))
            write(empty_bucket, HEAD_KEY, encode_head(renewed, head_keys(env)))

    primary = threading.Thread(target=renew)
    primary.start()
    try:
        refused = tkdb("recover", "--force", env=env)
    finally:
        ended.set()
        primary.join()
    assert refused.code == 1
    assert "a primary is alive" in refused.err
    assert head_in(empty_bucket, env).base == head.base


def test_of_two_concurrent_recoveries_exactly_one_succeeds(empty_bucket: Bucket, env: dict[str, str]) -> None:
    delete(empty_bucket, HEAD_KEY)
    racing = [
        subprocess.Popen(
            [TKDB, "recover", "--accept-loss", "--json"], env=BARE | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in racing]
    assert sorted(process.returncode for process in racing) == [0, 1]
    [winner] = [document for document in documents if "recovered" in document]
    assert head_in(empty_bucket, env).base == winner["recovered"]["base"]


def test_a_journal_is_recovered_after_its_sealing_secret_was_replaced(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    """The first secret seals the recovered data. The old one is still needed to read the data that it sealed."""
    delete(empty_bucket, HEAD_KEY)
    new = tkdb("keys", "generate", "--kind", "seal").out.strip()
    both = env | {"TKDB_SEAL_KEYS": f"{new},{env['TKDB_SEAL_KEYS']}"}
    assert recover(both, "--accept-loss")[0] == 0
    only = env | {"TKDB_SEAL_KEYS": new}
    assert head_in(empty_bucket, only).seq == 2
    assert check_base(only, empty_bucket, tmp_path)[1] == 2


def test_recover_reports_an_unreachable_store(
    empty_bucket: Bucket, env: dict[str, str], s3_server: Seaweed, proxy: FaultyProxy
) -> None:
    delete(empty_bucket, HEAD_KEY)
    proxy.fault = StoreFault.CUT
    refused = refusal(env | {"AWS_ENDPOINT_URL_S3": proxy.url}, "--accept-loss")
    assert refused.code == 3
    assert "couldn't be reached" in refused.err


def test_recover_refuses_an_empty_bucket(empty_bucket: Bucket, tmp_path: Path) -> None:
    refused = refusal(environment(empty_bucket, tmp_path), "--accept-loss")
    assert refused.code == 3
    assert "of 0 backups, none" in refused.err


def test_a_lost_bucket_is_recovered_into_an_empty_one_from_a_machines_volume(
    empty_bucket: Bucket, env: dict[str, str], s3_server: Seaweed
) -> None:
    head = act_as_primary(empty_bucket, env, synced=2, unsynced=1)
    other = on_machine(env) | {"BUCKET_NAME": make_bucket(s3_server).name}
    code, document = recover(other, "--from", "volume", "--accept-loss")
    assert (code, document["recovered"]["seq"]) == (0, head.seq + 1)
    assert recover(other)[1]["plan"] == "nothing"
