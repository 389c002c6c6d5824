"""``tkdb recover``: nothing is lost that is anywhere; what may be lost is said, and has to be accepted."""

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

from tests.cli.processes import BARE, TKDB, Ran, tkdb
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
    """The environment of an operator, beside a cluster that was just made."""
    env = environment(empty_bucket, tmp_path)
    make_cluster(empty_bucket, env)
    return env


def recover(env: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    done = tkdb("recover", "--json", *arguments, env=env)
    return done.code, json.loads(done.out)


def failed(env: dict[str, str], *arguments: str) -> Ran:
    done = tkdb("recover", *arguments, env=env)
    assert done.out == ""
    return done


def led(bucket: Bucket, env: dict[str, str], name: str = "m1.db", **counts: int) -> Head:
    """Return the head that a primary left, whose own database is called so."""
    database = Path(env["TKDB_DB"]).with_name(name)
    return asyncio.run(run_primary(bucket, env, database, **counts))


def machine(env: dict[str, str], name: str = "m1.db") -> dict[str, str]:
    """Return the environment on the machine whose database is called so."""
    return env | {"TKDB_DB": str(Path(env["TKDB_DB"]).with_name(name))}


def opens(env: dict[str, str], bucket: Bucket, tmp_path: Path) -> tuple[bytes, int]:
    """Check that the base restores to a journal that an authority accepts; return its id and its last entry."""
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


def test_where_all_is_well_there_is_nothing_to_recover_unless_it_is_forced(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = led(empty_bucket, env, synced=2, unsynced=2)
    before = keys_in(empty_bucket)
    code, document = recover(env)
    assert (code, document["plan"], document["recovered"]) == (1, "nothing", None)
    assert keys_in(empty_bucket) == before
    code, document = recover(env, "--force")
    assert (code, document["plan"]) == (0, "resume")
    after = head_in(empty_bucket, env)
    assert (after.place, after.journal, after.recent) == (head.place, head.journal, head.recent)
    assert (after.rev, after.epoch, after.owner, after.machine) == (head.rev + 1, head.epoch + 1, NOBODY, "")
    assert opens(env, empty_bucket, tmp_path) == (head.journal, head.seq)


def test_a_lost_head_is_recovered_once_the_loss_is_accepted(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = led(empty_bucket, env, synced=3, unsynced=2)
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
    assert opens(env, empty_bucket, tmp_path) == (after.journal, 5)
    assert recover(env)[1]["plan"] == "nothing"


def test_what_may_be_lost_and_what_is_to_be_done_is_said_in_words(empty_bucket: Bucket, env: dict[str, str]) -> None:
    led(empty_bucket, env, synced=1)
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
def test_a_head_that_someone_edited_is_kept_aside_and_not_believed(empty_bucket: Bucket, env: dict[str, str]) -> None:
    body = bytearray(read(empty_bucket, HEAD_KEY))
    body[60] ^= 1
    write(empty_bucket, HEAD_KEY, bytes(body))
    code, document = recover(env | {"TKDB_LEASE_MS": "3000"}, "--accept-loss")
    assert (code, document["head"], document["plan"]) == (0, "damaged", "renew")
    [kept] = keys_in(empty_bucket, "heads/damaged-")
    assert kept == document["recovered"]["kept"]
    assert read(empty_bucket, kept) == bytes(body)
    assert head_in(empty_bucket, env).seq == 2


def test_with_another_sealing_secret_nothing_is_recovered_and_nothing_changed(
    empty_bucket: Bucket, env: dict[str, str]
) -> None:
    before, head = keys_in(empty_bucket), read(empty_bucket, HEAD_KEY)
    other = tkdb("keys", "generate", "--kind", "seal").out.strip()
    refused = failed(env | {"TKDB_SEAL_KEYS": other}, "--accept-loss")
    assert refused.code == 3
    assert "none contains a valid journal" in refused.err
    assert "sealing secret" in refused.err
    assert other not in refused.err
    assert (keys_in(empty_bucket), read(empty_bucket, HEAD_KEY)) == (before, head)


def test_of_another_authority_nothing_is_recovered(empty_bucket: Bucket, env: dict[str, str]) -> None:
    delete(empty_bucket, HEAD_KEY)
    refused = failed(env | {"TKDB_NAME": "other.example"}, "--accept-loss")
    assert refused.code == 3
    assert "not to other.example" in refused.err


def test_where_an_older_backup_and_the_heads_recent_entries_meet_nothing_is_lost(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = led(empty_bucket, env, synced=0, unsynced=4, unnamed=1)
    delete(empty_bucket, head.base)
    code, document = recover(env)
    assert (code, document["plan"], document["lost_at_least"]) == (0, "resume", 0)
    after = head_in(empty_bucket, env)
    assert (after.place, after.journal, after.rev) == (head.place, head.journal, head.rev + 1)
    assert opens(env, empty_bucket, tmp_path) == (head.journal, head.seq)


def test_a_lost_base_that_no_backup_replaces_is_found_on_a_machines_volume(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    head = led(empty_bucket, env, synced=4, unsynced=1, unnamed=2)
    delete(empty_bucket, head.base)
    code, document = recover(env)
    assert (code, document["plan"], document["lost_at_least"]) == (1, "renew", 5)
    before = Path(machine(env)["TKDB_DB"]).read_bytes()
    code, document = recover(machine(env), "--from", "volume")
    assert (code, document["plan"]) == (0, "resume")
    assert head_in(empty_bucket, env).place == head.place
    assert opens(env, empty_bucket, tmp_path) == (head.journal, head.seq)
    assert Path(machine(env)["TKDB_DB"]).read_bytes() == before


def test_what_a_volume_holds_beyond_the_bucket_is_recovered_when_the_head_is_lost(
    empty_bucket: Bucket, env: dict[str, str]
) -> None:
    led(empty_bucket, env, synced=2, unsynced=3)
    delete(empty_bucket, HEAD_KEY)
    assert recover(env)[1]["may_be_lost_after"]["seq"] == 3
    code, document = recover(machine(env), "--from", "volume", "--accept-loss")
    assert (code, document["recovered"]["seq"]) == (0, 7)


def test_a_volume_that_is_in_use_missing_or_altered_is_refused(empty_bucket: Bucket, env: dict[str, str]) -> None:
    led(empty_bucket, env, synced=2)
    delete(empty_bucket, HEAD_KEY)

    async def in_use() -> Ran:
        async with await Database.open(Path(machine(env)["TKDB_DB"])):
            return await asyncio.to_thread(failed, machine(env), "--from", "volume", "--accept-loss")

    refused = asyncio.run(in_use())
    assert refused.code == 3
    assert "another process writes" in refused.err
    alter(Path(machine(env)["TKDB_DB"]))
    assert failed(machine(env), "--from", "volume", "--accept-loss").code == 1
    missing = failed(env, "--from", "volume", "--accept-loss")
    assert missing.code == 2
    assert not Path(env["TKDB_DB"]).exists()


async def _plant(bucket: Bucket, database: Path, epoch: int) -> str:
    """Put a database into the bucket as a backup, as whoever can write there could."""
    base = fresh_base(epoch, random_bytes=bytes)
    async with await Database.open(database, checkpoints=False):
        await back_up(await Program.find(), bucket, database, base, random_bytes=bytes)
    return base


def test_an_altered_backup_is_refused_however_new_it_looks(empty_bucket: Bucket, env: dict[str, str]) -> None:
    head = led(empty_bucket, env, synced=2)
    forged = Path(machine(env)["TKDB_DB"])
    with closing(sqlite3.connect(forged)) as connection:
        connection.execute("DELETE FROM root_keys")
        connection.execute("DELETE FROM journal WHERE seq = 3")
        connection.commit()
    planted = asyncio.run(_plant(empty_bucket, forged, epoch=99))
    delete(empty_bucket, HEAD_KEY)
    code, document = recover(env, "--accept-loss")
    assert code == 0
    assert [each["source"] for each in document["refused"]] == [planted]
    assert document["refused"][0]["code"] == "broken journal"
    assert document["may_be_lost_after"]["source"] == head.base
    assert document["recovered"]["epoch"] == 100


def test_a_backup_that_is_damaged_is_passed_over(empty_bucket: Bucket, env: dict[str, str]) -> None:
    first = head_in(empty_bucket, env)
    head = led(empty_bucket, env, synced=2)
    delete(empty_bucket, HEAD_KEY)
    for key in keys_in(empty_bucket, head.base):
        write(empty_bucket, key, read(empty_bucket, key)[:-40])
    code, document = recover(env, "--accept-loss")
    assert code == 0
    assert [each["code"] for each in document["refused"]] == ["restore failed"]
    assert document["may_be_lost_after"]["source"] == first.base


def test_of_two_histories_the_later_primarys_is_taken_and_where_they_part_is_said(
    empty_bucket: Bucket, env: dict[str, str]
) -> None:
    shared = led(empty_bucket, env, synced=2)
    deposed = led(empty_bucket, env, "deposed.db", synced=5)
    write(empty_bucket, HEAD_KEY, encode_head(msgspec.structs.replace(shared, epoch=8, rev=8), head_keys(env)))
    later = led(empty_bucket, env, "later.db", synced=1)
    delete(empty_bucket, HEAD_KEY)
    code, document = recover(env)
    assert code == 1
    assert document["may_be_lost_after"]["source"] == later.base
    parted = {each["source"]: each["diverges_after"] for each in document["candidates"]}
    assert (parted[deposed.base], parted[shared.base], parted[later.base]) == (3, None, None)
    assert "diverges after entry 3" in tkdb("recover", env=env).out


def test_an_older_head_that_was_put_back_is_not_gone_on_from(empty_bucket: Bucket, env: dict[str, str]) -> None:
    older = read(empty_bucket, HEAD_KEY)
    head = led(empty_bucket, env, synced=3)
    write(empty_bucket, HEAD_KEY, older)
    code, document = recover(env)
    assert (code, document["head"], document["plan"]) == (1, "sound", "renew")
    assert document["may_be_lost_after"]["seq"] == head.seq
    assert "an older one that was put back" in tkdb("recover", env=env).out


def test_a_living_primary_is_left_alone(empty_bucket: Bucket, env: dict[str, str]) -> None:
    head = led(empty_bucket, env, synced=1)
    ended = threading.Event()

    def renew() -> None:
        rev = head.rev
        while not ended.wait(0.3):
            rev += 1
            alive = msgspec.structs.replace(head, rev=rev, attempt=rev.to_bytes(16, "big"))
            write(empty_bucket, HEAD_KEY, encode_head(alive, head_keys(env)))

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


def test_of_two_recoveries_at_the_same_time_one_is_done(empty_bucket: Bucket, env: dict[str, str]) -> None:
    delete(empty_bucket, HEAD_KEY)
    racing = [
        subprocess.Popen(
            [TKDB, "recover", "--accept-loss", "--json"], env=BARE | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [json.loads(process.communicate(timeout=60)[0]) for process in racing]
    assert sorted(process.returncode for process in racing) == [0, 1]
    [won] = [document for document in said if "recovered" in document]
    assert head_in(empty_bucket, env).base == won["recovered"]["base"]


def test_a_journal_is_recovered_after_its_sealing_secret_was_replaced(
    empty_bucket: Bucket, env: dict[str, str], tmp_path: Path
) -> None:
    """The first secret seals what the recovery brings; the old one is still needed for what it sealed."""
    delete(empty_bucket, HEAD_KEY)
    new = tkdb("keys", "generate", "--kind", "seal").out.strip()
    both = env | {"TKDB_SEAL_KEYS": f"{new},{env['TKDB_SEAL_KEYS']}"}
    assert recover(both, "--accept-loss")[0] == 0
    only = env | {"TKDB_SEAL_KEYS": new}
    assert head_in(empty_bucket, only).seq == 2
    assert opens(only, empty_bucket, tmp_path)[1] == 2


def test_a_store_that_cannot_be_reached_changes_nothing(
    empty_bucket: Bucket, env: dict[str, str], s3_server: Seaweed, proxy: FaultyProxy
) -> None:
    delete(empty_bucket, HEAD_KEY)
    proxy.fault = StoreFault.CUT
    refused = failed(env | {"AWS_ENDPOINT_URL_S3": proxy.url}, "--accept-loss")
    assert refused.code == 3
    assert "couldn't be reached" in refused.err


def test_an_empty_bucket_gives_nothing_to_recover_from(empty_bucket: Bucket, tmp_path: Path) -> None:
    refused = failed(environment(empty_bucket, tmp_path), "--accept-loss")
    assert refused.code == 3
    assert "of 0 backups, none" in refused.err


def test_a_lost_bucket_is_replaced_by_an_empty_one_from_a_machines_volume(
    empty_bucket: Bucket, env: dict[str, str], s3_server: Seaweed
) -> None:
    head = led(empty_bucket, env, synced=2, unsynced=1)
    other = machine(env) | {"BUCKET_NAME": make_bucket(s3_server).name}
    code, document = recover(other, "--from", "volume", "--accept-loss")
    assert (code, document["recovered"]["seq"]) == (0, head.seq + 1)
    assert recover(other)[1]["plan"] == "nothing"
