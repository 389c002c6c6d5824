"""The start and the stop of a real authority: a failed start gives the reason, and a planned stop drains."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.node import Keys, Node, failed_start
from tkdb import errors

pytestmark = pytest.mark.real_start


@pytest.fixture
def keys() -> Keys:
    return Keys()


def test_another_programs_database_is_refused_and_unchanged(tmp_path: Path, keys: Keys) -> None:
    foreign = tmp_path / "other.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    content = foreign.read_bytes()
    code, output = failed_start(keys.environment(foreign))
    assert code == 2
    assert f"{foreign} is not a tkdb database" in output
    assert "try: " in output
    assert "Traceback" not in output
    assert (foreign.read_bytes(), list(tmp_path.iterdir())) == (content, [foreign])


def test_a_wrong_sealing_secret_a_wrong_name_and_a_second_process_are_clear_errors(tmp_path: Path, keys: Keys) -> None:
    database = tmp_path / "tkdb.db"
    with Node(database, keys) as node:
        code, output = failed_start(keys.environment(database))
        assert (code, "another process writes" in output) == (3, True)
        code, output = failed_start(keys.environment(tmp_path / "new.db", TKDB_BIND=node.url.removeprefix("http://")))
        assert (code, "another process listens there" in output) == (2, True)
        assert node.stop() == 0
    other = Keys()
    code, output = failed_start(keys.environment(database, TKDB_SEAL_KEYS=other.seal.text()))
    assert code == 2
    assert "is sealed under sealing secret" in output
    assert "TKDB_SEAL_KEYS" in output
    assert other.seal.text() not in output
    code, output = failed_start(keys.environment(database, TKDB_NAME="other.example"))
    assert code == 2
    assert "belongs to the authority tkdb.example, not to other.example" in output


def test_a_disk_that_cannot_be_written_is_a_clear_error(keys: Keys) -> None:
    # No user can create a file in this folder, not even root.
    code, output = failed_start(keys.environment(Path("/sys/tkdb.db")))
    assert code == 3
    assert "can't be written" in output
    assert "try: " in output


def test_all_wrong_settings_are_reported_together(tmp_path: Path, keys: Keys) -> None:
    environment = keys.environment(tmp_path / "tkdb.db", TKDB_BIND="here", TKDB_DRIAN_MS="1")
    del environment["TKDB_SEAL_KEYS"]
    code, output = failed_start(environment)
    assert code == 2
    for part in ("3 settings are wrong", "TKDB_BIND", "did you mean TKDB_DRAIN_MS?", "TKDB_SEAL_KEYS: it is missing"):
        assert part in output
    assert keys.authority.text() not in output


def test_a_planned_stop_waits_for_proxies_and_polls(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db", TKDB_DRAIN_MS="400") as node, node.client() as client:
        client.create_organization("acme")
        token = client.mint("acme")
        at = client.revocations([token.kid]).position
        feeds = []
        with httpx.Client(base_url=node.url, trust_env=False) as http:
            assert http.get("/readyz").status_code == 200

            def follow() -> None:
                with node.holder() as follower:
                    feeds.append(follower.revocations([token.kid], after=at, wait_ms=20_000))

            poll = threading.Thread(target=follow)
            poll.start()
            while _connections(node) < 3:
                time.sleep(0.01)
            ended: list[int] = []
            stopping = threading.Thread(target=lambda: ended.append(node.stop()))
            stopping.start()
            while (response := http.get("/readyz")).status_code == 200:
                time.sleep(0.005)
            assert response.status_code == 503
            assert response.json()["type"] == "urn:tkdb:problem:draining"
            # Calls are still answered, because proxies need time to notice the drain.
            assert client.verify(token).organization == "acme"
            assert client.revoke(token) is False
            poll.join()
            stopping.join()
        assert ended == [0]
        [feed] = feeds
        assert feed.position >= at
        node.start()
        with node.client() as again, pytest.raises(errors.RevokedToken):
            again.verify(token)


def _connections(node: Node) -> int:
    """Return the number of open connections. The log can't show a poll before it ends."""
    port = int(node.url.rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[1].endswith(f":{port:04X}") and fields[3] == "01" for fields in lines)


def test_a_connection_that_sends_nothing_does_not_delay_a_stop(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node:
        host, port = node.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as idle:
            assert node.stop() == 0
            idle.settimeout(5)
            assert idle.recv(1) == b""
