"""``tkdb gc`` deletes garbage, never the head's base, and nothing at all if there is no valid head."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.processes import tkdb
from tests.replication.faults import FaultyProxy, StoreFault
from tests.replication.operator import delete, environment, head_in, head_keys, keys_in, write
from tests.replication.seaweed import Seaweed, now_ms
from tkdb import errors
from tkdb.journal.seal import SealKey
from tkdb_replication.bucket.objects import Deleted, Listed, Listing, MemoryObjects, Unknown
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.cluster.backups import Backup, group
from tkdb_replication.cluster.gc import DEFAULT_KEEP_MS, LEAST_KEEP_MS, Collection, Fate, collect, judge
from tkdb_replication.protocol.head import BEGINNING, NOBODY, Head, HeadKeys, encode_head, first_head

KEYS = HeadKeys([SealKey(bytes(32))])
DAY_MS = 86_400_000
NOW_MS = 1_000 * DAY_MS


def base(epoch: int, tail: int = 0) -> str:
    return f"epochs/{epoch:08}-{tail:016x}"


def head(base: str) -> Head:
    return first_head(journal=b"j" * 16, attempt=b"a" * 16, owner=NOBODY, base=base, place=BEGINNING, epoch=1)


class AgedBucket(MemoryObjects):
    """A bucket in memory whose objects have given ages. ``before_delete`` is called once, before the first delete."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        super().__init__(now_ms=lambda: self.now_ms)
        self.before_delete = lambda: None

    def put_aged(self, key: str, days: float, body: bytes = b"x") -> None:
        self.now_ms = NOW_MS - int(days * DAY_MS)
        asyncio.run(self.put(key, body, timeout_ms=1))
        self.now_ms = NOW_MS

    def swap(self, base: str) -> None:
        self._objects[HEAD_KEY] = (encode_head(head(base), KEYS), NOW_MS)

    @property
    def keys(self) -> set[str]:
        return set(self._objects)

    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        run, self.before_delete = self.before_delete, lambda: None
        run()
        return await super().delete(key, timeout_ms=timeout_ms)


def aged(*paths: tuple[str, float, float]) -> AgedBucket:
    """Return a bucket whose head names the first path. Each path has one object of each of the two ages, in days."""
    bucket = AgedBucket()
    bucket.swap(paths[0][0])
    for path, oldest_days, newest_days in paths:
        bucket.put_aged(f"{path}/0009/1-1.ltx", oldest_days)
        bucket.put_aged(f"{path}/0000/2-2.ltx", newest_days)
    return bucket


def collected(bucket: AgedBucket, keep_days: float = 7) -> dict[str, Fate]:
    collection = asyncio.run(collect(bucket, KEYS, keep_ms=int(keep_days * DAY_MS)))
    return {each.backup.base: each.fate for each in collection.paths}


def test_old_superseded_paths_are_deleted_and_the_base_is_kept_at_any_age() -> None:
    bucket = aged((base(3), 20, 19), (base(2), 30, 21), (base(1), 40, 31))
    assert collected(bucket) == {base(3): Fate.BASE, base(2): Fate.GARBAGE, base(1): Fate.GARBAGE}
    assert bucket.keys == {HEAD_KEY, f"{base(3)}/0000/2-2.ltx", f"{base(3)}/0009/1-1.ltx"}


def test_a_recently_superseded_backup_is_kept_even_if_its_objects_are_old() -> None:
    bucket = aged((base(3), 1, 1), (base(2), 30, 21), (base(1), 40, 31))
    assert collected(bucket) == {base(3): Fate.BASE, base(2): Fate.KEPT, base(1): Fate.GARBAGE}


def test_the_path_of_a_takeover_in_progress_is_kept_even_with_keep_days_0() -> None:
    bucket = aged((base(3), 20, 19), (base(4), 0.03, 0.03), (base(2), 30, 20))
    assert collected(bucket, keep_days=0) == {base(4): Fate.KEPT, base(3): Fate.BASE, base(2): Fate.GARBAGE}


def test_an_unknown_name_is_not_deleted() -> None:
    bucket = aged((base(3), 20, 19), ("epochs/mine", 90, 90))
    bucket.put_aged("epochs/note.txt", 90)
    bucket.put_aged("other/thing", 90)
    assert collected(bucket)["epochs/mine"] == Fate.STRANGE
    assert {"epochs/mine/0000/2-2.ltx", "epochs/note.txt", "other/thing"} < bucket.keys


def test_the_objects_of_old_probes_are_deleted_and_those_of_running_ones_are_kept() -> None:
    bucket = aged((base(1), 20, 19))
    bucket.put_aged("probe/old", 1)
    bucket.put_aged("probe/running", 0.01)
    collected(bucket)
    assert {key for key in bucket.keys if key.startswith("probe/")} == {"probe/running"}


def test_a_path_that_the_head_names_between_list_and_delete_is_kept() -> None:
    bucket = aged((base(3), 20, 10), (base(2), 30, 21), (base(1), 40, 31))
    bucket.before_delete = lambda: bucket.swap(base(1))
    with pytest.raises(errors.Conflict, match=f"now names {base(1)}"):
        collected(bucket)
    assert f"{base(1)}/0009/1-1.ltx" in bucket.keys
    assert f"{base(3)}/0009/1-1.ltx" in bucket.keys


@pytest.mark.parametrize("body", [b"", b"altered", encode_head(head(base(1)), HeadKeys([SealKey(b"k" * 32)]))])
def test_with_an_invalid_head_nothing_is_deleted(body: bytes) -> None:
    bucket = aged((base(3), 20, 19), (base(2), 30, 21))
    before = bucket.keys
    bucket.put_aged(HEAD_KEY, 0, body)
    with pytest.raises(errors.BrokenHead, match="nothing is deleted"):
        collected(bucket)
    assert bucket.keys == before


def test_without_a_head_nothing_is_deleted() -> None:
    bucket = aged((base(3), 20, 19), (base(2), 30, 21))
    before = bucket.keys
    asyncio.run(bucket.delete(HEAD_KEY, timeout_ms=1))
    with pytest.raises(errors.BrokenHead, match="there is no head"):
        collected(bucket)
    assert bucket.keys == before - {HEAD_KEY}


def test_without_the_stores_time_nothing_is_collected() -> None:
    class WithoutTime(AgedBucket):
        async def list(self, prefix: str, *, timeout_ms: int) -> Listed | Unknown:
            listed = await super().list(prefix, timeout_ms=timeout_ms)
            return replace(listed, date_ms=None) if isinstance(listed, Listed) else listed

    bucket = WithoutTime()
    bucket.swap(base(1))
    with pytest.raises(errors.Unavailable, match="answer has no time"):
        collected(bucket)


AGES = st.integers(0, 60 * DAY_MS)
LISTINGS = st.lists(
    st.builds(
        lambda epoch, tail, name, age_ms: Listing(f"{base(epoch, tail)}/{name}", 1, NOW_MS - age_ms),
        st.integers(0, 4), st.integers(0, 2), st.sampled_from(["0000/1", "0009/1"]), AGES,
    ),
    min_size=1, unique_by=lambda each: each.key,
)  # fmt: skip


@given(LISTINGS, st.integers(0, 5), AGES)
def test_the_base_and_young_backups_are_never_garbage(listings: list[Listing], which: int, keep_ms: int) -> None:
    backups = group(listings)
    named = backups[which % len(backups)].base
    judged = judge(backups, named, now_ms=NOW_MS, keep_ms=keep_ms)
    assert [each.backup for each in judged] == backups
    garbage = [each.backup for each in judged if each.fate is Fate.GARBAGE]
    assert named not in {each.base for each in garbage}
    assert all(NOW_MS - each.newest_ms >= max(keep_ms, LEAST_KEEP_MS) for each in garbage)


@given(st.lists(st.text(min_size=1), unique=True))
def test_any_keys_are_grouped_without_an_error(names: list[str]) -> None:
    listings = [Listing(f"epochs/{name}", 1, 0) for name in names]
    backups: list[Backup] = group(listings)
    assert sum(len(each.objects) for each in backups) == len(names)


def in_a_month(bucket: Bucket, env: dict[str, str]) -> Collection:
    """Collect as if the store's clock were 30 days ahead."""

    class Later(S3Objects):
        async def list(self, prefix: str, *, timeout_ms: int) -> Listed | Unknown:
            listed = await super().list(prefix, timeout_ms=timeout_ms)
            assert isinstance(listed, Listed)
            return replace(listed, date_ms=(listed.date_ms or 0) + 30 * DAY_MS)

    async def run() -> Collection:
        async with Later(bucket, now_ms=now_ms) as objects:
            return await collect(objects, head_keys(env), keep_ms=DEFAULT_KEEP_MS)

    return asyncio.run(run())


def test_gc_shows_each_path_and_deletes_the_old_ones_after_a_month(empty_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(empty_bucket, tmp_path)
    for _ in range(2):
        assert tkdb("init", env=env).code == 0
        named = head_in(empty_bucket, env)
        delete(empty_bucket, HEAD_KEY)
    write(empty_bucket, HEAD_KEY, encode_head(msgspec.structs.replace(named, rev=1), head_keys(env)))
    shown = tkdb("gc", "--keep-days", "0", "--yes", env=env)
    assert shown.code == 0
    assert "kept: the head names it" in shown.out
    assert "0 of 2 paths were deleted" in shown.out
    document = json.loads(tkdb("gc", "--dry-run", "--json", env=env).out)
    assert {each["path"]: each["fate"] for each in document["paths"]}[named.base] == "base"
    assert {each["fate"] for each in document["paths"]} == {"base", "kept"}
    assert [each.fate for each in in_a_month(empty_bucket, env).paths].count(Fate.GARBAGE) == 1
    assert {key.split("/")[1] for key in keys_in(empty_bucket, "epochs/")} == {named.base.split("/")[1]}
    assert json.loads(tkdb("recover", "--json", env=env).out)["plan"] == "nothing"


def test_gc_reports_a_missing_head_and_an_unreachable_store(
    empty_bucket: Bucket, s3_server: Seaweed, proxy: FaultyProxy, tmp_path: Path
) -> None:
    env = environment(empty_bucket, tmp_path)
    missing = tkdb("gc", "--yes", env=env)
    assert (missing.code, missing.out) == (3, "")
    assert "there is no head: nothing is deleted" in missing.err
    proxy.fault = StoreFault.CUT
    unreachable = tkdb("gc", "--yes", env=env | {"AWS_ENDPOINT_URL_S3": proxy.url})
    assert unreachable.code == 3
    assert "couldn't be reached" in unreachable.err
    assert tkdb("gc", "--keep-days", "-1", "--yes", env=env).code == 2
    assert tkdb("gc", "--yes", env={}).code == 2
