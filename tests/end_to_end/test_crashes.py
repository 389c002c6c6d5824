"""Processes that are killed or stopped while clients write: no acknowledged write is lost."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.end_to_end.node import NAME, Node
from tkdb import api, errors
from tkdb.channel.envelope import prologue, verify_signature
from tkdb.database.audit import AuditReport, audit
from tkdb.database.database import Database
from tkdb.journal.entry import Entry
from tkdb.journal.seal import SealKeys
from tkdb.macaroon.caveats import Act
from tkdb_client import Client, Macaroon

KILLS, STOPS = 8, 3


class Writer(threading.Thread):
    """A thread that writes until it is stopped, and remembers the acknowledged writes. Its calls outlast restarts."""

    def __init__(self, node: Node, number: int) -> None:
        super().__init__()
        self._node = node
        self._number = number
        self.created: list[str] = []
        self.revoked: list[Macaroon] = []
        self.live: list[Macaroon] = []
        self.failed: Exception | None = None
        self.over = threading.Event()
        self.acknowledged = threading.Semaphore(0)

    def run(self) -> None:
        try:
            with self._node.client(timeout_ms=20_000) as signer, self._node.holder() as holder:
                while not self.over.is_set():
                    self._round(signer, holder)
        except Exception as error:  # noqa: BLE001  `writing` raises it
            self.failed = error
            self.acknowledged.release(10**6)

    def _round(self, signer: Client, holder: Client) -> None:
        name = f"w{self._number}-{len(self.created)}"
        assert signer.create_organization(name).name == name
        self._note(self.created, name)
        token = signer.mint(name)
        child = token.narrow(Act("r"))
        holder.revoke(child)
        self._note(self.revoked, child)
        self.live.append(token)
        dead = signer.mint(name)
        signer.revoke(dead)
        self._note(self.revoked, dead)

    def _note(self, acknowledged: list[Any], item: Any) -> None:
        acknowledged.append(item)
        self.acknowledged.release()


@contextmanager
def writing(node: Node, count: int = 2) -> Iterator[list[Writer]]:
    writers = [Writer(node, number) for number in range(count)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.over.set()
        for writer in writers:
            writer.join()
    for writer in writers:
        if writer.failed is not None:
            raise writer.failed


def _restart_under_load(node: Node, end: Callable[[], object], times: int) -> list[Writer]:
    """End the process while it answers writes, and start it again, ``times`` times. Then check every write."""
    draw = random.Random(times)
    with writing(node) as writers:
        for _ in range(times):
            for writer in writers:
                for _ in range(draw.randrange(1, 9)):
                    assert writer.acknowledged.acquire(timeout=60)
            threading.Event().wait(draw.random() * 0.02)
            end()
            node.start()
    _check(node, writers)
    return writers


def _check(node: Node, writers: list[Writer]) -> None:
    created = {name for writer in writers for name in writer.created}
    with node.client() as client:
        assert {each.name for each in client.list_organizations()} == created
        for writer in writers:
            dead = client.verify_many(writer.revoked)
            assert {type(result) for result in dead} == {errors.RevokedToken}
            live = client.verify_many(writer.live)
            assert not any(isinstance(result, errors.Denied) for result in live)
    assert node.stop() == 0
    report = asyncio.run(_audit(node))
    # A repeated write is done once: there is one entry for each organization, each lineage and each branch.
    revoked = sum(len(writer.revoked) for writer in writers)
    assert report.signed == len(created) + revoked // 2
    assert report.unknown == []


async def _audit(node: Node) -> AuditReport:
    def by_signature(entry: Entry) -> bool:
        verify_signature(
            node.keys.signer.public,
            prologue(api.WRITE, NAME),
            entry.signed_ms,
            entry.request_id,
            entry.body,
            entry.signature,
        )
        return True

    async with await Database.open(node.database, read_only=True) as database:
        return await audit(database, SealKeys([node.keys.seal]), by_signature)


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node:
        _restart_under_load(node, node.kill, KILLS)


def test_no_write_fails_or_is_lost_when_the_process_is_stopped(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node:

        def stop() -> None:
            assert node.stop() == 0

        _restart_under_load(node, stop, STOPS)
