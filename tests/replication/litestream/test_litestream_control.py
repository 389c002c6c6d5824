"""Litestream's answers and log lines are untrusted input, and it gets no secret but the credentials."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import errors
from tkdb.net.url import Url
from tkdb_replication.bucket.credentials import Credentials, CredentialSource
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import environment
from tkdb_replication.litestream.config import configuration
from tkdb_replication.litestream.control import MAX_ANSWER_BYTES, Control, Synced
from tkdb_replication.litestream.log import MAX_FIELDS, MAX_TEXT, parse_line

DATABASE = Path("/data/tkdb.db")
SECRETS = Credentials("AKIDSECRET", "verysecretkey", "sessionsecret")


@pytest.fixture
def address() -> Iterator[Path]:
    """The path of a socket in a new folder. It is short, because a socket's path has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tk") as folder:
        yield Path(folder) / "control"


def sync(address: Path, answer: bytes, pid: int | None = None) -> Synced:
    """Sync with a process that gives this one answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def main() -> Synced:
        async with await asyncio.start_unix_server(serve, address):
            control = Control(address, pid=os.getpid() if pid is None else pid, credentials=SECRETS)
            return await control.sync(DATABASE, timeout_ms=2_000)

    return asyncio.run(main())


def http(status: int, body: object) -> bytes:
    text = body if isinstance(body, str) else json.dumps(body)
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def answer(**changed: object) -> bytes:
    return http(200, {"status": "synced", "path": str(DATABASE), "txid": 7, "replicated_txid": 7, **changed})


def test_a_sync_succeeds_once_the_store_has_its_transactions(address: Path) -> None:
    assert sync(address, answer()) == Synced(7, 7)
    assert sync(address, answer(status="no_change", replicated_txid=8)) == Synced(7, 8)


@pytest.mark.parametrize(
    ("response", "names"),
    [
        (answer(replicated_txid=6), "6 of 7"),
        (answer(status="no_change", replicated_txid=0), "0 of 7"),
        (answer(txid=0, replicated_txid=0), "0 of 0"),
        (answer(txid=-1, replicated_txid=5), "5 of -1"),
        (answer(txid="7"), "can't be read"),
        (answer(txid=None), "can't be read"),
        (answer(path="/data/other.db"), "another database"),
        (http(200, {"status": "synced"}), "can't be read"),
        (http(200, "not JSON"), "can't be read"),
        (http(200, "[" * 50_000), "can't be read"),
        (http(200, "x" * (MAX_ANSWER_BYTES + 1)), "too large"),
        (http(500, {"error": "replica sync: verysecretkey"}), "it reports: replica sync: \\*\\*\\*"),
        (http(404, {"error": 5}), "can't be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "can't be used"),
        (b"garbage\r\n\r\n", "can't be used"),
        (b"", "can't be used"),
    ],
)
def test_any_other_answer_to_a_sync_is_unavailable(response: bytes, names: str, address: Path) -> None:
    with pytest.raises(errors.Unavailable, match=names):
        sync(address, response)


def test_a_control_socket_of_another_process_is_refused(address: Path) -> None:
    with pytest.raises(errors.Unavailable, match="another process"):
        sync(address, answer(), pid=os.getppid())


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_as_a_log_line(line: bytes) -> None:
    parsed = parse_line(line, credentials=SECRETS)
    assert all(len(str(value)) <= MAX_TEXT for value in parsed.fields.values())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["time", "level", "msg", "event", "said", "db", "error", "verysecretkey"]),
            st.none()
            | st.booleans()
            | st.integers(0, 9)
            | st.text(max_size=5)
            | st.just("verysecretkey")
            | st.just([1]),
        ),
        max_size=20,
    )
)
def test_a_log_line_never_shows_a_secret_or_sets_our_own_fields(pairs: list[tuple[str, object]]) -> None:
    line = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    parsed = parse_line(line.encode(), credentials=SECRETS)
    assert "verysecretkey" not in repr(parsed)
    assert len(parsed.fields) <= MAX_FIELDS + 1
    assert not {"time", "level", "event", "msg"} & set(parsed.fields)


@pytest.mark.parametrize(
    ("level", "logged"),
    [("INFO", logging.DEBUG), ("WARN", logging.WARNING), ("ERROR", logging.ERROR), ("?", logging.WARNING)],
)
def test_info_is_logged_as_debug_and_other_levels_as_warnings_or_errors(level: str, logged: int) -> None:
    # The second "level" is that of the compaction, not that of the line.
    line = f'{{"level":"{level}","msg":"starting compaction monitor","level":2,"interval":5}}'
    parsed = parse_line(line.encode(), credentials=SECRETS)
    assert (parsed.level, parsed.fields) == (logged, {"said": "starting compaction monitor", "interval": 5})


def test_the_configuration_keeps_an_unusual_path_and_contains_no_secret() -> None:
    bucket = Bucket("acme-tkdb", Url.parse("http://127.0.0.1:1"), "auto", CredentialSource.fixed(SECRETS))
    unusual = Path("/data/a: b # 'c' \"d\" $HOME %s.db")
    text = configuration(bucket, "epochs/1", unusual, socket=Path("/tmp/x/control"))
    assert json.loads(text)["dbs"][0]["path"] == str(unusual)
    assert not any(part in text for part in ("AKIDSECRET", "verysecretkey", "sessionsecret"))


def test_the_program_gets_the_credentials_and_certificates_but_no_seal_keys_or_proxies() -> None:
    inherited = {"TKDB_SEAL_KEYS": "x", "AWS_CA_BUNDLE": "/x", "HTTPS_PROXY": "x", "SSL_CERT_FILE": "/certs"}
    passed_on = environment(SECRETS, inherited)
    assert not {"TKDB_SEAL_KEYS", "AWS_CA_BUNDLE", "HTTPS_PROXY"} & set(passed_on)
    assert passed_on["SSL_CERT_FILE"] == "/certs"
    assert passed_on["AWS_SECRET_ACCESS_KEY"] == "verysecretkey"
