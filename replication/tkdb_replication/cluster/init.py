"""Founding: a bucket becomes a cluster's, with a journal, a backup that was proved to work, and then the first head.

Nobody else makes a head. What a founding leaves that fails is garbage in the bucket, and nothing else: the head comes
last, and only where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tkdb import errors
from tkdb.authority import genesis
from tkdb.authority.clock import Clock
from tkdb.database.database import Database
from tkdb.journal.state import State
from tkdb_replication.bucket.conformance import check_store
from tkdb_replication.bucket.paths import fresh_base
from tkdb_replication.cluster.backups import back_up, scratch
from tkdb_replication.cluster.cluster import Cluster
from tkdb_replication.cluster.head_object import Absent, Damaged, describe, put_head, read_head
from tkdb_replication.litestream.supervisor import size_bytes
from tkdb_replication.node.volume_file import VolumeFile
from tkdb_replication.protocol.head import NOBODY, Head, Place, first_head

_ATTEMPT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Founded:
    """A cluster that was made.

    Attributes:
        head: the first head.
        begun: whether its journal was begun with it; else it is a single machine's that was there.
    """

    head: Head
    begun: bool


async def found(cluster: Cluster, database: Path, clock: Clock) -> Founded:
    """Make a cluster: with the journal in ``database``, where there is one, or else with a new one.

    Args:
        cluster: the bucket, and the secrets.
        database: a single machine's file, which is left as it is; it need not exist.
        clock: dates the first entry of a new journal.

    Raises:
        Conflict: there is a head already, or another founding was quicker; or the database is of a cluster's machine.
        BrokenHead: something lies where the head belongs, and isn't one of ours.
        UnfitObjectStore: the bucket doesn't keep its conditions.
        ConfigurationError, WrongSealKey, BrokenJournal, StoreError: the database can't be used, and why.
        Unavailable: the object store or the disk can't be used now.
    """
    absent = await _check_absent(cluster)
    await check_store(cluster.objects, random_bytes=cluster.random_bytes)
    with scratch(database) as folder:
        source, begun = await _source(database, folder)
        async with await Database.open(source, checkpoints=False) as opened:
            state = await genesis.begin(opened, cluster.name, cluster.seal_keys, clock, cluster.random_bytes)
            _check_single(database, state)
            base = fresh_base(state.head.epoch, random_bytes=cluster.random_bytes)
            await back_up(cluster.program, cluster.bucket, source, base, random_bytes=cluster.random_bytes)
            await cluster.prove(base, state.head, source, folder / "proof.db")
            head = first_head(
                journal=state.journal,
                attempt=cluster.random_bytes(_ATTEMPT_BYTES),
                owner=NOBODY,
                base=base,
                place=Place(state.head.seq, state.head.hash),
                epoch=state.head.epoch,
            )
            # While the database is still ours: no other process can have written to it since.
            await put_head(cluster.objects, head, cluster.head_keys, over=absent)
    return Founded(head, begun)


async def _check_absent(cluster: Cluster) -> Absent:
    there = await read_head(cluster.objects, cluster.head_keys)
    if isinstance(there, Absent):
        return there
    if isinstance(there, Damaged):
        raise errors.BrokenHead(
            f"the bucket has a head, and it can't be used: {there.error.message}",
            hint="use another bucket, or look with `tkdb recover`",
        )
    raise errors.Conflict(
        f"the bucket has a head: {describe(there.head)}",
        hint="start machines with `tkdb serve`; for another cluster, use another bucket",
    )


def _check_single(database: Path, state: State) -> None:
    """A cluster's machine may lack what others acknowledged; to go on from it as if it didn't would revive tokens."""
    if VolumeFile(database).read(journal=state.journal).rev >= 0:
        raise errors.Conflict(
            f"{database} is of a machine of another cluster, and may lack entries of it",
            hint="`tkdb recover --from volume` goes on from it",
        )


async def _source(database: Path, folder: Path) -> tuple[Path, bool]:
    """Return the file to found with, and whether its journal is yet to be begun."""
    if size_bytes(database):
        async with await Database.open(database) as opened:
            if (await opened.load()).head.seq:
                return database, False
    return folder / "tkdb.db", True
