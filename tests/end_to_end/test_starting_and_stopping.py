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


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, keys: Keys) -> None:
    foreign = tmp_path / "other.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    content = foreign.read_bytes()
    code, said = failed_start(keys.environment(foreign))
    assert code == 2
    assert f"{foreign} is not a tkdb database" in said
    assert "try: " in said
    assert "Traceback" not in said
    assert (foreign.read_bytes(), list(tmp_path.iterdir())) == (content, [foreign])


def test_a_wrong_sealing_secret_or_name_or_a_second_process_is_said_so(tmp_path: Path, keys: Keys) -> None:
    database = tmp_path / "tkdb.db"
    with Node(database, keys) as node:
        code, said = failed_start(keys.environment(database))
        assert (code, "another process writes" in said) == (3, True)
        code, said = failed_start(keys.environment(tmp_path / "new.db", TKDB_BIND=node.url.removeprefix("http://")))
        assert (code, "another process listens there" in said) == (2, True)
        assert node.stop() == 0
    other = Keys()
    code, said = failed_start(keys.environment(database, TKDB_SEAL_KEYS=other.seal.text()))
    assert code == 2
    assert "is sealed under sealing secret" in said
    assert "TKDB_SEAL_KEYS" in said
    assert other.seal.text() not in said
    code, said = failed_start(keys.environment(database, TKDB_NAME="other.example"))
    assert code == 2
    assert "belongs to the authority tkdb.example, not to other.example" in said


def test_a_disk_that_cannot_be_written_is_said_so(keys: Keys) -> None:
    # Nobody, root included, makes a file in there.
    code, said = failed_start(keys.environment(Path("/sys/tkdb.db")))
    assert code == 3
    assert "can't be written" in said
    assert "try: " in said


def test_all_that_is_wrong_with_the_settings_is_said_at_once(tmp_path: Path, keys: Keys) -> None:
    environment = keys.environment(tmp_path / "tkdb.db", TKDB_BIND="here", TKDB_DRIAN_MS="1")
    del environment["TKDB_SEAL_KEYS"]
    code, said = failed_start(environment)
    assert code == 2
    for part in ("3 settings are wrong", "TKDB_BIND", "did you mean TKDB_DRAIN_MS?", "TKDB_SEAL_KEYS: it is missing"):
        assert part in said
    assert keys.authority.text() not in said


def test_a_stop_by_plan_lets_proxies_and_polls_go_first(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db", TKDB_DRAIN_MS="400") as node, node.client() as client:
        client.create_organization("acme")
        token = client.mint("acme")
        at = client.revocations([token.kid]).position
        told = []
        with httpx.Client(base_url=node.url, trust_env=False) as http:
            assert http.get("/readyz").status_code == 200

            def follow() -> None:
                with node.holder() as follower:
                    told.append(follower.revocations([token.kid], after=at, wait_ms=20_000))

            poll = threading.Thread(target=follow)
            poll.start()
            while _established(node) < 3:
                time.sleep(0.01)
            ended: list[int] = []
            stopping = threading.Thread(target=lambda: ended.append(node.stop()))
            stopping.start()
            while (response := http.get("/readyz")).status_code == 200:
                time.sleep(0.005)
            assert response.status_code == 503
            assert response.json()["type"] == "urn:tkdb:problem:draining"
            # Calls are still answered: whoever hasn't heard yet isn't cut off.
            assert client.verify(token).organization == "acme"
            assert client.revoke(token) is False
            poll.join()
            stopping.join()
        assert ended == [0]
        [feed] = told
        assert feed.position >= at
        node.start()
        with node.client() as again, pytest.raises(errors.RevokedToken):
            again.verify(token)


def _established(node: Node) -> int:
    """How many connections there are: the server logs nothing of a poll before it ends."""
    port = int(node.url.rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[1].endswith(f":{port:04X}") and fields[3] == "01" for fields in lines)


def test_a_connection_that_sends_nothing_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node:
        host, port = node.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as idle:
            assert node.stop() == 0
            idle.settimeout(5)
            assert idle.recv(1) == b""
