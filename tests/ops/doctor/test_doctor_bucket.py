"""``tkdb doctor`` and the bucket: a real object store, and what stands before it misbehaves as told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.answering import Answer
from tests.end_to_end.node import Keys
from tests.ops.doctor.examined import Examined, doctor
from tests.regions import rule_proxy as rules
from tests.regions.cluster import Cluster, variables
from tests.regions.rule_proxy import PassOn, Request, RuleProxy
from tests.replication.seaweed import CREDENTIALS, Seaweed, make_bucket, now_ms
from tkdb.journal.seal import SealKey
from tkdb_ops.doctor.buckets import is_tigris, tigris_location
from tkdb_ops.doctor.findings import Unlearned
from tkdb_ops.doctor.store import Location
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.bucket.sigv4 import sign


@pytest.fixture(scope="module")
def meddler(s3_server: Seaweed) -> Iterator[RuleProxy]:
    with RuleProxy(s3_server.port) as meddler:
        yield meddler


@pytest.fixture(scope="module")
def shared(s3_server: Seaweed) -> Bucket:
    return make_bucket(s3_server)


@pytest.fixture
def bucket(s3_server: Seaweed, shared: Bucket, meddler: RuleProxy) -> Bucket:
    """A bucket without a head, through the meddler."""
    meddler.rule = rules.honest
    return s3_server.bucket(shared.name, meddler.url)


def examine(bucket: Bucket, **environment: str) -> Examined:
    return doctor(**variables(bucket), **environment)


def test_a_fit_bucket_is_green_and_nothing_is_left_in_it(bucket: Bucket) -> None:
    examined = examine(bucket)
    assert (examined.code, examined.outcomes("passed")) == (0, {"bucket-fit", "bucket-closed", "clocks"})
    assert examined.by_check["bucket-head"]["found"] == "TKDB_SEAL_KEYS isn't set"
    assert examined.by_check["bucket-strong"]["outcome"] == "skipped"
    assert CREDENTIALS.secret_access_key not in json.dumps(examined.document)

    async def left() -> int:
        async with S3Objects(bucket, now_ms=now_ms) as objects:
            return len((await objects.list("", timeout_ms=10_000)).objects)  # type: ignore[union-attr]  it answers

    assert asyncio.run(left()) == 0


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (rules.ignore("if-match"), "If-Match with another ETag doesn't keep an object from being overwritten"),
        (rules.ignore("if-none-match"), "If-None-Match: * doesn't keep an object from being overwritten"),
        (rules.eventual_reads(), "a read right after a write doesn't see it"),
    ],
    ids=["without If-Match", "without If-None-Match", "eventual reads"],
)
def test_a_bucket_that_is_not_fit_for_a_lease_is_named(
    bucket: Bucket, meddler: RuleProxy, rule: rules.Rule, fault: str
) -> None:
    meddler.rule = rule
    examined = examine(bucket)
    assert examined.code == 1
    assert fault in examined.found("bucket-fit")
    assert "strong reads" in examined.by_check["bucket-fit"]["try"]


def anybody(request: Request, pass_on: PassOn) -> Answer | None:
    """As a bucket that strangers may read: what isn't signed is taken for its owner's."""
    if "authorization" in request.headers:
        return pass_on(request)
    path, _, query = request.target.partition("?")
    asked = dict(part.split("=", 1) for part in query.split("&") if part)
    headers = {"host": request.headers["host"]}
    signed = sign("GET", path, asked, headers, b"", credentials=CREDENTIALS, region="auto", now_ms=now_ms())
    return pass_on(replace(request, headers=signed))


def test_a_bucket_that_strangers_can_read_is_named(bucket: Bucket, meddler: RuleProxy) -> None:
    meddler.rule = anybody
    examined = examine(bucket)
    assert examined.code == 1
    assert examined.found("bucket-closed") == (
        "which objects there are can be read without a key; the list of objects can be read without a key"
    )
    asyncio.run(put_head(bucket, b"anything"))
    try:
        assert "the head can be read without a key" in examine(bucket).found("bucket-closed")
    finally:
        asyncio.run(put_head(bucket, None))


async def put_head(bucket: Bucket, body: bytes | None) -> None:
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        if body is None:
            await objects.delete(HEAD_KEY, timeout_ms=10_000)
        else:
            await objects.put(HEAD_KEY, body, timeout_ms=10_000)


@pytest.mark.parametrize("offset_s", [-60, 60])
def test_a_bucket_of_another_time_is_named(bucket: Bucket, meddler: RuleProxy, offset_s: int) -> None:
    meddler.rule = rules.clock_offset(offset_s)
    found = examine(bucket).found("clocks")
    assert found.startswith("the clock of the bucket is ")
    assert ("ahead of" if offset_s > 0 else "behind") in found


def test_a_bucket_that_cannot_be_reached_is_no_pass(bucket: Bucket, meddler: RuleProxy) -> None:
    meddler.rule = rules.unreachable
    examined = examine(bucket)
    assert (examined.code, examined.outcomes("passed"), examined.outcomes("failed")) == (3, set(), set())
    assert examined.outcomes("unknown") == {"bucket-fit", "bucket-closed", "clocks"}


def test_credentials_that_are_refused_are_no_pass_and_are_not_shown(bucket: Bucket) -> None:
    examined = doctor(**{**variables(bucket), "AWS_SECRET_ACCESS_KEY": "not-the-one-that-it-is"})
    assert examined.code == 3
    assert "SignatureDoesNotMatch" in examined.unlearned("bucket-fit")
    assert "not-the-one-that-it-is" not in json.dumps(examined.document)


def test_a_bucket_without_a_head_and_one_that_is_damaged_are_named(bucket: Bucket) -> None:
    seal = {"TKDB_SEAL_KEYS": SealKey(os.urandom(32)).text()}
    examined = examine(bucket, **seal)
    assert examined.found("bucket-head") == "there is no head in the bucket"
    assert "tkdb init" in examined.by_check["bucket-head"]["try"]
    asyncio.run(put_head(bucket, b"no head at all" * 10))
    try:
        examined = examine(bucket, **seal)
        assert examined.found("bucket-head") == "the head has another sealing secret, or isn't a head"
    finally:
        asyncio.run(put_head(bucket, None))


@pytest.mark.slow
def test_a_founded_bucket_and_the_machine_that_follows_it_are_green(s3_server: Seaweed, tmp_path: Path) -> None:
    """Outside of Fly, the machines are asked at their URLs; there is nothing that attests."""
    with Cluster(tmp_path, make_bucket(s3_server), size=2) as cluster:
        keys: Keys = cluster.keys
        environment = variables(cluster.bucket) | {
            "TKDB_URL": ",".join(node.url for node in cluster.nodes.values()),
            "TKDB_AUTHORITY": keys.identity.text(),
            "TKDB_SEAL_KEYS": keys.seal.text(),
        }
        examined = doctor(**environment)
        assert "bucket-head" in examined.outcomes("passed"), examined.document
        assert "primary m" in examined.by_check["bucket-head"]["found"]
        assert {"identity", "machines-answer", "one-cluster", "one-version", "clocks"} <= examined.outcomes("passed")
        # The authority's own secrets say who it is where nothing else does.
        del environment["TKDB_AUTHORITY"]
        own = {"TKDB_NAME": keys.identity.name, "TKDB_AUTHORITY_KEY": keys.authority.text()}
        assert "identity" in doctor(**environment, **own).outcomes("passed")
        assert "skipped" in doctor(**environment).by_check["identity"]["outcome"]


# --- where Tigris keeps it ----------------------------------------------------------------------------------


def saying(body: bytes, status: int = 200) -> rules.Rule:
    """As Tigris, asked for a bucket's metadata: only who signs is answered."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        answer = pass_on(request)
        assert request.target.endswith("?metadata=")
        known = answer.status == 501  # SeaweedFS has no such thing, and says so to who signs only
        return Answer(status, {"content-type": "application/json"}, body) if known else answer

    return rule


PLACES = [
    (b'{"name": "b", "object_regions": "", "md": {"X-Amz-Acl": "private"}}', Location("global")),
    (b'{"name": "b"}', Location("global")),
    (b'{"object_regions": "iad"}', Location("single", ("iad",))),
    (b'{"object_regions": "eur"}', Location("multi", ("eur",))),
    (b'{"object_regions": "fra, lhr"}', Location("dual", ("fra", "lhr"))),
]


@pytest.mark.parametrize(("body", "where"), PLACES, ids=range(len(PLACES)))
def test_tigris_says_where_a_bucket_is(bucket: Bucket, meddler: RuleProxy, body: bytes, where: Location) -> None:
    meddler.rule = saying(body)
    assert asyncio.run(tigris_location(bucket, now_ms)) == where


@pytest.mark.parametrize("rule", [saying(b"<xml/>"), saying(b"[]"), saying(b"{}", 404), rules.unreachable])
def test_where_tigris_does_not_say_nothing_is_supposed(bucket: Bucket, meddler: RuleProxy, rule: rules.Rule) -> None:
    meddler.rule = rule
    assert isinstance(asyncio.run(tigris_location(bucket, now_ms)), Unlearned)


def test_only_tigris_is_asked_as_tigris() -> None:
    assert is_tigris("fly.storage.tigris.dev")
    assert is_tigris("t3.storage.dev")
    assert not is_tigris("tigris.dev.example.com")
    assert not is_tigris("s3.eu-west-1.amazonaws.com")
