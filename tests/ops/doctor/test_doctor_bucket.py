"""``tkdb doctor`` and the bucket: a real object store, behind a proxy that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.node import Keys
from tests.http_stub import Answer
from tests.ops.doctor.doctor_report import DoctorReport, doctor
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
    """A bucket without a head, accessed through the meddler."""
    meddler.rule = rules.honest
    return s3_server.bucket(shared.name, meddler.url)


def examine(bucket: Bucket, **environment: str) -> DoctorReport:
    return doctor(**variables(bucket), **environment)


def test_a_fit_bucket_passes_and_stays_empty(bucket: Bucket) -> None:
    report = examine(bucket)
    assert (report.code, report.outcomes("passed")) == (0, {"bucket-fit", "bucket-closed", "clocks"})
    assert report.by_check["bucket-head"]["found"] == "TKDB_SEAL_KEYS isn't set"
    assert report.by_check["bucket-strong"]["outcome"] == "skipped"
    assert CREDENTIALS.secret_access_key not in json.dumps(report.document)

    async def count_objects() -> int:
        async with S3Objects(bucket, now_ms=now_ms) as objects:
            return len((await objects.list("", timeout_ms=10_000)).objects)  # type: ignore[union-attr]  the store answers

    assert asyncio.run(count_objects()) == 0


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (rules.ignore("if-match"), "If-Match with another ETag doesn't keep an object from being overwritten"),
        (rules.ignore("if-none-match"), "If-None-Match: * doesn't keep an object from being overwritten"),
        (rules.eventual_reads(), "a read right after a write doesn't see it"),
    ],
    ids=["without If-Match", "without If-None-Match", "eventual reads"],
)
def test_a_bucket_that_can_not_hold_a_lease_fails_with_the_reason(
    bucket: Bucket, meddler: RuleProxy, rule: rules.Rule, fault: str
) -> None:
    meddler.rule = rule
    report = examine(bucket)
    assert report.code == 1
    assert fault in report.failure("bucket-fit")
    assert "strong reads" in report.by_check["bucket-fit"]["try"]


def readable_without_key(request: Request, pass_on: PassOn) -> Answer | None:
    """Behave as a public bucket: sign each unsigned request with the owner's key."""
    if "authorization" in request.headers:
        return pass_on(request)
    path, _, query = request.target.partition("?")
    query_parameters = dict(part.split("=", 1) for part in query.split("&") if part)
    headers = {"host": request.headers["host"]}
    signed = sign("GET", path, query_parameters, headers, b"", credentials=CREDENTIALS, region="auto", now_ms=now_ms())
    return pass_on(replace(request, headers=signed))


def test_a_publicly_readable_bucket_fails(bucket: Bucket, meddler: RuleProxy) -> None:
    meddler.rule = readable_without_key
    report = examine(bucket)
    assert report.code == 1
    assert report.failure("bucket-closed") == (
        "which objects there are can be read without a key; the list of objects can be read without a key"
    )
    asyncio.run(put_head(bucket, b"anything"))
    try:
        assert "the head can be read without a key" in examine(bucket).failure("bucket-closed")
    finally:
        asyncio.run(put_head(bucket, None))


async def put_head(bucket: Bucket, body: bytes | None) -> None:
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        if body is None:
            await objects.delete(HEAD_KEY, timeout_ms=10_000)
        else:
            await objects.put(HEAD_KEY, body, timeout_ms=10_000)


@pytest.mark.parametrize("offset_s", [-60, 60])
def test_a_bucket_with_a_skewed_clock_fails(bucket: Bucket, meddler: RuleProxy, offset_s: int) -> None:
    meddler.rule = rules.clock_offset(offset_s)
    found = examine(bucket).failure("clocks")
    assert found.startswith("the clock of the bucket is ")
    assert ("ahead of" if offset_s > 0 else "behind") in found


def test_an_unreachable_bucket_neither_passes_nor_fails(bucket: Bucket, meddler: RuleProxy) -> None:
    meddler.rule = rules.unreachable
    report = examine(bucket)
    assert (report.code, report.outcomes("passed"), report.outcomes("failed")) == (3, set(), set())
    assert report.outcomes("unknown") == {"bucket-fit", "bucket-closed", "clocks"}


def test_refused_credentials_pass_no_check_and_are_not_shown(bucket: Bucket) -> None:
    report = doctor(**{**variables(bucket), "AWS_SECRET_ACCESS_KEY": "not-the-one-that-it-is"})
    assert report.code == 3
    assert "SignatureDoesNotMatch" in report.unknown("bucket-fit")
    assert "not-the-one-that-it-is" not in json.dumps(report.document)


def test_a_missing_head_and_a_damaged_head_fail(bucket: Bucket) -> None:
    seal = {"TKDB_SEAL_KEYS": SealKey(os.urandom(32)).text()}
    report = examine(bucket, **seal)
    assert report.failure("bucket-head") == "there is no head in the bucket"
    assert "tkdb init" in report.by_check["bucket-head"]["try"]
    asyncio.run(put_head(bucket, b"no head at all" * 10))
    try:
        report = examine(bucket, **seal)
        assert report.failure("bucket-head") == "the head has another sealing secret, or isn't a head"
    finally:
        asyncio.run(put_head(bucket, None))


@pytest.mark.slow
def test_an_initialized_bucket_and_its_machines_pass(s3_server: Seaweed, tmp_path: Path) -> None:
    """Outside of Fly, the doctor uses the machines' URLs, and no proxy attests callers."""
    with Cluster(tmp_path, make_bucket(s3_server), size=2) as cluster:
        keys: Keys = cluster.keys
        environment = variables(cluster.bucket) | {
            "TKDB_URL": ",".join(node.url for node in cluster.nodes.values()),
            "TKDB_AUTHORITY": keys.identity.text(),
            "TKDB_SEAL_KEYS": keys.seal.text(),
        }
        report = doctor(**environment)
        assert "bucket-head" in report.outcomes("passed"), report.document
        assert "primary m" in report.by_check["bucket-head"]["found"]
        assert {"identity", "machines-answer", "one-cluster", "one-version", "clocks"} <= report.outcomes("passed")
        # Without TKDB_AUTHORITY, the identity follows from the authority's own secrets.
        del environment["TKDB_AUTHORITY"]
        own = {"TKDB_NAME": keys.identity.name, "TKDB_AUTHORITY_KEY": keys.authority.text()}
        assert "identity" in doctor(**environment, **own).outcomes("passed")
        assert "skipped" in doctor(**environment).by_check["identity"]["outcome"]


# --- the location of a bucket at Tigris ---------------------------------------------------------------------


def answers_metadata(body: bytes, status: int = 200) -> rules.Rule:
    """Answer a signed request for a bucket's metadata, as Tigris does."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        answer = pass_on(request)
        assert request.target.endswith("?metadata=")
        signed = answer.status == 501  # SeaweedFS has no metadata, and only a signed request gets this status.
        return Answer(status, {"content-type": "application/json"}, body) if signed else answer

    return rule


LOCATIONS = [
    (b'{"name": "b", "object_regions": "", "md": {"X-Amz-Acl": "private"}}', Location("global")),
    (b'{"name": "b"}', Location("global")),
    (b'{"object_regions": "iad"}', Location("single", ("iad",))),
    (b'{"object_regions": "eur"}', Location("multi", ("eur",))),
    (b'{"object_regions": "fra, lhr"}', Location("dual", ("fra", "lhr"))),
]


@pytest.mark.parametrize(("body", "location"), LOCATIONS, ids=range(len(LOCATIONS)))
def test_the_location_is_read_from_the_answer_of_tigris(
    bucket: Bucket, meddler: RuleProxy, body: bytes, location: Location
) -> None:
    meddler.rule = answers_metadata(body)
    assert asyncio.run(tigris_location(bucket, now_ms)) == location


@pytest.mark.parametrize(
    "rule", [answers_metadata(b"<xml/>"), answers_metadata(b"[]"), answers_metadata(b"{}", 404), rules.unreachable]
)
def test_an_unusable_answer_of_tigris_gives_no_location(bucket: Bucket, meddler: RuleProxy, rule: rules.Rule) -> None:
    meddler.rule = rule
    assert isinstance(asyncio.run(tigris_location(bucket, now_ms)), Unlearned)


def test_only_hosts_of_tigris_are_recognized() -> None:
    assert is_tigris("fly.storage.tigris.dev")
    assert is_tigris("t3.storage.dev")
    assert not is_tigris("tigris.dev.example.com")
    assert not is_tigris("s3.eu-west-1.amazonaws.com")
