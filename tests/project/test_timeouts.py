"""Time limits: an inner wait ends before the outer one, so that the caller learns the reason, and not only the delay.

``INNER_OUTER`` lists each limit with the limit around it. A limit that is missing there fails the last test.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any, Final

import pytest

from tkdb import api, defaults
from tkdb.cli import connect, machines, promote
from tkdb.database import connection
from tkdb.server import replay
from tkdb.server.limits import Limits
from tkdb.settings import Settings
from tkdb_client import operations
from tkdb_client.calls import call, regions, transport
from tkdb_client.verification import feed_follower, verification
from tkdb_replication.bucket import credentials, s3
from tkdb_replication.litestream.supervisor import SyncTiming
from tkdb_replication.node import node
from tkdb_replication.protocol.settings import ProtocolSettings

ROOT = Path(__file__).parents[2]
PACKAGES = ("tkdb", "client/tkdb_client", "replication/tkdb_replication")
SERVER, STORE, SYNC = Limits(), ProtocolSettings(machine="m"), SyncTiming()
PROXY_IDLE_MS: Final = 60_000
"""How long proxies keep an idle connection."""

Limit = tuple[str, float]
ATTEMPT: Limit = ("an attempt", call.ATTEMPT_TIMEOUT_MS)
CALL: Limit = ("a call", call.TIMEOUT_MS)
ANSWER: Limit = ("the server's answer", SERVER.answer_ms)
BOUND: Limit = ("the bound", defaults.BOUND_MS)
LEASE: Limit = ("the lease", defaults.LEASE_MS)

INNER_OUTER: list[tuple[Limit, Limit]] = [
    # A write: its round's lock and the next one's end within an attempt, with time for two round trips of 300 ms.
    (("two waits for the database's lock, and the network", 2 * connection.BUSY_TIMEOUT_MS + 2 * 300), ATTEMPT),
    (("two waits for the database's lock", 2 * connection.BUSY_TIMEOUT_MS), ANSWER),
    (("a wait for the database's lock", connection.BUSY_TIMEOUT_MS), LEASE),
    # A read: another machine or region gets its turn within an attempt.
    (("a proxy's try of another machine", replay.REACH_S * 1000), ATTEMPT),
    (("a wait for a position", node.COME_TO_MS), ATTEMPT),
    (("a quick region's share", regions.LEAST_TIMEOUT_MS), ATTEMPT),
    # A call: one attempt that hangs leaves time for others.
    (("three attempts", 3 * call.ATTEMPT_TIMEOUT_MS), CALL),
    (("a second look at unsure results", verification.UNSURE_TIMEOUT_MS), CALL),
    (ATTEMPT, ("a second look at unsure results", verification.UNSURE_TIMEOUT_MS)),
    (ATTEMPT, ("a machine's share of a command", machines.EACH_TIMEOUT_MS)),
    (("a machine's share of a command", machines.EACH_TIMEOUT_MS), ("a command's call", connect.TIMEOUT_MS)),
    # A caller that waits for less than the server would never get the server's reason for a slow answer.
    (ATTEMPT, ANSWER),
    # A move of the primary: the authority ends it before the server and the command stop waiting.
    (("a move", operations.MOVE_MS), ANSWER),
    (("a move", operations.MOVE_MS), ("the command's wait for a move", promote.WAIT_MS)),
    # A long poll: the authority ends it before the server does.
    (("a poll", api.MAX_WAIT_MS), ("the server's poll", api.MAX_WAIT_MS + SERVER.wait_slack_ms)),
    (("a poll's attempt", call.ATTEMPT_TIMEOUT_MS), ("a follower's slack", feed_follower.SLACK_MS)),
    # The object store: a request that hangs ends before anything that depends on it.
    (("a request to the object store", STORE.answer_ms), ("the pause between swaps", STORE.lease_ms / 3)),
    (("two requests to the object store, and a pause", 2 * STORE.answer_ms + STORE.poll_ms), BOUND),
    (("a request to the object store", STORE.answer_ms), CALL),
    (("a read of credentials", credentials.CONTAINER_TIMEOUT_MS), ("a request to the object store", STORE.answer_ms)),
    (BOUND, LEASE),
    # Litestream: a check ends before its supervisor kills it, and a sync before the primary gives way.
    (("a look at Litestream", SYNC.look_ms), ("a hung Litestream", SYNC.hung_ms)),
    (("a hung Litestream", SYNC.hung_ms), ("a stuck Litestream", SYNC.stuck_ms)),
    (("a sync", STORE.sync_ms), ("a primary without syncs", STORE.unsynced_ms)),
    (("a hung Litestream", SYNC.hung_ms), ("a sync", STORE.sync_ms)),
    # Idle connections: each side drops them before the one that it waits for.
    (("a client's idle connection", transport.MAX_IDLE_S * 1000), ("a proxy's", PROXY_IDLE_MS)),
    (("a proxy's idle connection", PROXY_IDLE_MS), ("the server's", SERVER.keep_alive_ms)),
    (("an idle connection to the object store", s3.MAX_IDLE_S * 1000), ("a proxy's", PROXY_IDLE_MS)),
    # A stop: the primary hands over before the drain ends.
    (("a handover", node.LEAVE_S * 1000), ("the drain", Settings.__dataclass_fields__["drain_ms"].default)),
]

ALONE: dict[str, str] = {
    "tkdb_replication.node.journal_steps.RESTORE_TIMEOUT_MS": "a restore runs in the background",
    "tkdb_replication.litestream.binary.VERSION_TIMEOUT_MS": "it is asked for once, before a start",
    "tkdb_replication.cluster.backups.LIST_TIMEOUT_MS": "an operator's command without a deadline waits for it",
    "tkdb_replication.cluster.head_object.TIMEOUT_MS": "an operator's command without a deadline waits for it",
}
"""The limits that no other limit is around."""


@pytest.mark.parametrize(("inner", "outer"), INNER_OUTER, ids=lambda limit: limit[0].replace(" ", "-"))
def test_an_inner_wait_is_shorter_than_the_outer_one(inner: Limit, outer: Limit) -> None:
    assert inner[1] < outer[1]


def test_a_wait_for_a_lock_that_outlasts_an_attempt_fails_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_MS", 2_000)
    with pytest.raises(AssertionError):
        test_an_inner_wait_is_shorter_than_the_outer_one(("a lock", 2 * connection.BUSY_TIMEOUT_MS), ATTEMPT)


def _timeouts() -> dict[str, Any]:
    """Return each constant of the code whose name says that it is a timeout."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            names = [
                target.id
                for statement in ast.parse(path.read_text()).body
                for target in (
                    statement.targets
                    if isinstance(statement, ast.Assign)
                    else [statement.target]
                    if isinstance(statement, ast.AnnAssign)
                    else []
                )
                if isinstance(target, ast.Name) and "TIMEOUT" in target.id
            ]
            base = ROOT if package == "tkdb" else ROOT / Path(package).parent
            module = ".".join(path.relative_to(base).with_suffix("").parts)
            found |= {f"{module}.{name}": getattr(importlib.import_module(module), name) for name in names}
    return {name: value for name, value in found.items() if not name.endswith(("TIMEOUT_TIMES", "_TIMEOUTS"))}


def test_every_timeout_is_in_the_table() -> None:
    listed = {
        "tkdb.database.connection.BUSY_TIMEOUT_MS",
        "tkdb.cli.connect.TIMEOUT_MS",
        "tkdb.cli.machines.EACH_TIMEOUT_MS",
        "tkdb_client.calls.call.TIMEOUT_MS",
        "tkdb_client.calls.call.ATTEMPT_TIMEOUT_MS",
        "tkdb_client.calls.regions.LEAST_TIMEOUT_MS",
        "tkdb_client.verification.verification.UNSURE_TIMEOUT_MS",
        "tkdb_replication.bucket.credentials.CONTAINER_TIMEOUT_MS",
    }
    assert set(_timeouts()) == listed | set(ALONE)
