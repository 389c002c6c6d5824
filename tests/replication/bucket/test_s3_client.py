"""The S3 client signs requests, classifies every answer, and never sends a request twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.replication.conftest import now_ms
from tests.replication.faults import FaultyProxy, StoreFault
from tkdb import errors
from tkdb.net.url import Url
from tkdb_replication.bucket.credentials import Credentials, CredentialSource
from tkdb_replication.bucket.listing import error_code, parse_page
from tkdb_replication.bucket.objects import MAX_BODY_BYTES, Conflict, Deleted, Found, Listed, Missing, Stored, Unknown
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.bucket.sigv4 import encode_path, sign

AWS_EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_MS = 1_369_353_600_000
SECRETS = Credentials("AKIDSECRETID", "verysecretkey", "sessionsecret")


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "body", "signature"),
    [
        ("GET", "/test.txt", {}, {"range": "bytes=0-9"}, b"",
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("PUT", "/test$file.text", {},
         {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
         b"Welcome to Amazon S3.", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        ("GET", "/", {"lifecycle": ""}, {}, b"", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("GET", "/", {"max-keys": "2", "prefix": "J"}, {}, b"",
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)  # fmt: skip
def test_signatures_equal_those_in_the_aws_examples(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, signature: str
) -> None:
    signed = sign(
        method, encode_path(path), query, {"host": "examplebucket.s3.amazonaws.com", **headers}, body,
        credentials=AWS_EXAMPLE, region="us-east-1", now_ms=EXAMPLE_MS,
    )  # fmt: skip
    assert signed["authorization"].endswith(f"Signature={signature}")


def test_a_session_token_is_sent_and_signed() -> None:
    signed = sign("GET", "/", {}, {"host": "h"}, b"", credentials=SECRETS, region="auto", now_ms=EXAMPLE_MS)
    assert signed["x-amz-security-token"] == "sessionsecret"
    assert "x-amz-security-token" in signed["authorization"]


@asynccontextmanager
async def serving(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[S3Objects, list[bytes]]]:
    """Serve a store that answers each request with ``answer``, and records the requests."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        requests.append(request)
        writer.write(answer(request))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bucket = Bucket("bucket", Url.parse(f"http://127.0.0.1:{port}"), "auto", CredentialSource.fixed(SECRETS))
    async with server, S3Objects(bucket, now_ms=now_ms) as objects:
        yield objects, requests


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def run(trial: Callable[[S3Objects, list[bytes]], Awaitable[None]], *answers: bytes) -> None:
    """Run a trial on a store that gives these answers in turn, and repeats the last one."""
    rest = list(answers)

    async def main() -> None:
        async with serving(lambda _request: rest.pop(0) if len(rest) > 1 else rest[0]) as (objects, requests):
            await trial(objects, requests)

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        http("500 Internal Server Error"),
        http("503 Slow Down", b"<Error><Code>SlowDown</Code></Error>"),
        http("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>"),
        http("404 Not Found", b"<Error><Code>NoSuchBucket</Code></Error>"),
        http("404 Not Found", b"<html>nothing here</html>"),
        http("307 Temporary Redirect", b"", "Location: http://127.0.0.1:1/"),
        http("200 OK"),  # an answer without an ETag proves nothing
        http("304 Not Modified"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: x\r\n\r\ncut short",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
        b"\x00\xff garbage\r\n\r\n",
        b"",
    ],
)
def test_an_unusable_answer_is_unknown_and_its_request_is_sent_once(answer: bytes) -> None:
    async def trial(objects: S3Objects, requests: list[bytes]) -> None:
        for number, outcome in enumerate(
            [
                await objects.put("k", b"v", if_match='"e"', timeout_ms=5_000),
                await objects.get("k", timeout_ms=5_000),
                await objects.list("k", timeout_ms=5_000),
            ],
            start=1,
        ):
            assert isinstance(outcome, Unknown), number
            assert "secret" not in outcome.message.lower()
        assert len(requests) == 3

    run(trial, answer)


@pytest.mark.parametrize("status", ["409 Conflict", "412 Precondition Failed"])
def test_a_failed_condition_is_a_conflict_only_if_the_put_had_one(status: str) -> None:
    async def trial(objects: S3Objects, _requests: list[bytes]) -> None:
        assert isinstance(await objects.put("k", b"v", if_match='"e"', timeout_ms=5_000), Conflict)
        assert isinstance(await objects.put("k", b"v", if_none_match="*", timeout_ms=5_000), Conflict)
        assert isinstance(await objects.put("k", b"v", timeout_ms=5_000), Unknown)

    run(trial, http(status))


def test_replacing_a_missing_object_is_a_conflict() -> None:
    async def trial(objects: S3Objects, _requests: list[bytes]) -> None:
        assert isinstance(await objects.put("k", b"v", if_match='"e"', timeout_ms=5_000), Conflict)
        assert isinstance(await objects.put("k", b"v", timeout_ms=5_000), Unknown)
        assert isinstance(await objects.get("k", timeout_ms=5_000), Missing)
        assert isinstance(await objects.delete("k", timeout_ms=5_000), Deleted)

    run(trial, http("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>"))


def test_conditions_are_sent_and_signed_and_strong_reads_are_requested() -> None:
    async def trial(objects: S3Objects, requests: list[bytes]) -> None:
        await objects.put("k", b"v", if_match='"e"', timeout_ms=5_000)
        await objects.put("k", b"v", if_none_match="*", timeout_ms=5_000)
        await objects.get("k", if_none_match='"e"', timeout_ms=5_000)
        assert b'\r\nif-match: "e"\r\n' in requests[0]
        assert b"SignedHeaders=accept-encoding;content-length;content-type;host;if-match;" in requests[0]
        assert b"\r\nif-none-match: *\r\n" in requests[1]
        assert b'\r\nif-none-match: "e"\r\n' in requests[2]
        assert all(b"\r\nx-tigris-consistent: true\r\n" in request for request in requests)
        assert not any(SECRETS.secret_access_key.encode() in request for request in requests)

    run(trial, http("200 OK", b"", 'ETag: "f"'))


def test_an_invalid_date_is_none() -> None:
    async def trial(objects: S3Objects, _requests: list[bytes]) -> None:
        assert await objects.put("k", b"", timeout_ms=5_000) == Stored('"f"', 784_111_777_000)
        assert await objects.put("k", b"", timeout_ms=5_000) == Stored('"f"', None)

    dated = http("200 OK", b"", 'ETag: "f"', "Date: Sun, 06 Nov 1994 08:49:37 GMT")
    run(trial, dated, http("200 OK", b"", 'ETag: "f"', "Date: yesterday"))


def test_an_object_that_is_too_large_is_unknown() -> None:
    async def trial(objects: S3Objects, _requests: list[bytes]) -> None:
        outcome = await objects.get("k", timeout_ms=5_000)
        assert isinstance(outcome, Unknown)
        assert "larger than" in outcome.message

    run(trial, http("200 OK", b"x" * (MAX_BODY_BYTES + 1), 'ETag: "f"'))


def test_a_list_of_several_pages_is_complete() -> None:
    entry = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-11-23T01:44:17.000Z</LastModified></Contents>"

    def page(key: str, more: str) -> bytes:
        return http("200 OK", f"<ListBucketResult>{entry.format(key)}{more}</ListBucketResult>".encode())

    async def trial(objects: S3Objects, requests: list[bytes]) -> None:
        listed = await objects.list("k", timeout_ms=5_000)
        assert isinstance(listed, Listed)
        assert [(one.key, one.modified_ms) for one in listed.objects] == [
            ("a", 1_795_398_257_000),
            ("b", 1_795_398_257_000),
        ]
        assert b"continuation-token=next%2F1&list-type=2&prefix=k" in requests[1]

    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>next/1</NextContinuationToken>"
    run(trial, page("a", more), page("b", "<IsTruncated>false</IsTruncated>"))


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE x [<!ENTITY a "a">]><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>',
        b"<a>" * 100_000,
        b"<ListBucketResult><IsTruncated>maybe</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key></Contents><IsTruncated>false</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>-</Size></Contents></ListBucketResult>",
        b"",
    ],
)
def test_xml_that_is_not_a_page_is_refused(body: bytes) -> None:
    assert parse_page(body) is None


@given(st.binary(max_size=300))
def test_any_bytes_from_the_store_are_parsed_without_an_error(body: bytes) -> None:
    parse_page(body)
    assert error_code(body).isascii()


@given(st.text(alphabet="<>/ListBucketResultContentsIsTruncatedfalse &;!", max_size=200))
def test_any_text_like_xml_is_parsed_without_an_error(text: str) -> None:
    parse_page(b"<ListBucketResult>" + text.encode() + b"</ListBucketResult>")


@pytest.mark.parametrize("fault", [StoreFault.STALL, StoreFault.CUT, StoreFault.ERROR, StoreFault.LOSE_ANSWER])
def test_during_a_fault_outcomes_are_unknown_and_afterwards_a_put_succeeds(
    fault: StoreFault, faulty_bucket: Bucket, proxy: FaultyProxy
) -> None:
    async def trial() -> None:
        async with S3Objects(faulty_bucket, now_ms=now_ms) as objects:
            assert isinstance(await objects.put("k", b"1", timeout_ms=5_000), Stored)
            proxy.fault = fault
            assert isinstance(await objects.put("k", b"2", timeout_ms=300), Unknown)
            assert isinstance(await objects.get("k", timeout_ms=300), Unknown)
            assert isinstance(await objects.list("", timeout_ms=300), Unknown)
            assert isinstance(await objects.delete("other", timeout_ms=300), Unknown)
            proxy.fault = StoreFault.NONE
            assert isinstance(await objects.put("last", b"3", timeout_ms=5_000), Stored)

    asyncio.run(trial())


def test_a_put_whose_answer_is_lost_may_have_succeeded(faulty_bucket: Bucket, proxy: FaultyProxy) -> None:
    async def trial() -> None:
        async with S3Objects(faulty_bucket, now_ms=now_ms) as objects:
            proxy.fault = StoreFault.LOSE_ANSWER
            assert isinstance(await objects.put("lost", b"mine", if_none_match="*", timeout_ms=5_000), Unknown)
            proxy.fault = StoreFault.NONE
            found = await objects.get("lost", timeout_ms=5_000)
            assert isinstance(found, Found)
            assert found.body == b"mine"

    asyncio.run(trial())


def test_wrong_credentials_give_unknown_not_missing(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    async def trial() -> None:
        wrong = Bucket(bucket.name, bucket.endpoint, bucket.region, CredentialSource.fixed(SECRETS))
        async with S3Objects(wrong, now_ms=now_ms) as objects:
            outcome = await objects.get("k", timeout_ms=5_000)
            assert isinstance(outcome, Unknown)
            assert outcome.status == 403
            assert "InvalidAccessKeyId" in outcome.message

    with caplog.at_level(logging.DEBUG, logger="tkdb"):
        asyncio.run(trial())
    assert "verysecretkey" not in caplog.text


VARIABLES = {"BUCKET_NAME": "acme", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secretvalue"}


def test_the_bucket_is_read_from_the_usual_variables() -> None:
    bucket = Bucket.parse({**VARIABLES, "AWS_ENDPOINT_URL_S3": "https://fly.storage.tigris.dev", "AWS_REGION": "auto"})
    assert (bucket.name, str(bucket.endpoint), bucket.region) == ("acme", "https://fly.storage.tigris.dev", "auto")
    assert bucket.credentials == Credentials("id", "secretvalue")
    assert str(Bucket.parse({**VARIABLES, "AWS_REGION": "eu-west-1"}).endpoint) == "https://s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BUCKET_NAME", ""),
        ("BUCKET_NAME", "ab"),
        ("BUCKET_NAME", "a/../b"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", "with blank"),
        ("AWS_SECRET_ACCESS_KEY", "with\nnewline"),
        ("AWS_SESSION_TOKEN", "with blank"),
        ("AWS_REGION", "../x"),
        ("AWS_ENDPOINT_URL_S3", "ftp://x"),
        ("AWS_ENDPOINT_URL_S3", "http://user:pass@x"),
        ("AWS_ENDPOINT_URL_S3", "http://x?region=syd"),
    ],
)
def test_an_invalid_setting_is_refused_by_its_name_without_its_value(variable: str, value: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=variable) as caught:
        Bucket.parse({**VARIABLES, variable: value})
    assert not value or value not in str(caught.value)


def test_credentials_are_never_shown() -> None:
    bucket = Bucket("acme", Url.parse("http://localhost"), "auto", CredentialSource.fixed(SECRETS))
    shown = f"{bucket!r} {bucket} {SECRETS!r} {SECRETS}"
    assert not any(part in shown for part in ("AKIDSECRETID", "verysecretkey", "sessionsecret"))
    assert SECRETS.redact("a verysecretkey of AKIDSECRETID, sessionsecret") == "a *** of ***, ***"
