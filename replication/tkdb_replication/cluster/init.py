"""The creation of a cluster in a bucket: a journal, a backup that was proved to work, and then the first head.

Only this creates a head where there is none. If it fails, it leaves nothing but garbage in the bucket, because the head
comes last, and only if there is none.
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
from tkdb_replication.protocol.head import NOBODY, Checkpoint, Head, first_head

_ATTEMPT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Founded:
    """A new cluster.

    Attributes:
        head: the first head.
        begun: whether its journal is new too. If not, it is the journal of an existing single machine.
    """

    head: Head
    begun: bool


async def found(cluster: Cluster, database: Path, clock: Clock) -> Founded:
    """Create a cluster, with the journal in ``database`` if there is one, or else with a new one.

    Args:
        cluster: the bucket, and the secrets.
        database: a single machine's file, which isn't changed. It need not exist.
        clock: dates the first entry of a new journal.

    Raises:
        Conflict: there is a head already, or another command was quicker, or the database belongs to a cluster's
            machine.
        BrokenHead: there is an object at the head's key that isn't a head of this cluster.
        UnfitObjectStore: the bucket doesn't honour its conditions.
        ConfigurationError, WrongSealKey, BrokenJournal, StoreError: the database can't be used. The message gives the
            cause.
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
                place=Checkpoint(state.head.seq, state.head.hash),
                epoch=state.head.epoch,
            )
            # Put the head while the database is locked: no other process can have written to it since.
            await put_head(cluster.objects, head, cluster.head_keys, over=absent)
    return Founded(head, begun)


async def _check_absent(cluster: Cluster) -> Absent:
    there = await read_head(cluster.objects, cluster.head_keys)
    if isinstance(there, Absent):
        return there
    if isinstance(there, Damaged):
        raise errors.BrokenHead(
            f"the bucket has a head that can't be used: {there.error.message}",
            hint="use another bucket, or run `tkdb recover`",
        )
    raise errors.Conflict(
        f"the bucket has a head: {describe(there.head)}",
        hint="start machines with `tkdb serve`, or use another bucket for another cluster",
    )


def _check_single(database: Path, state: State) -> None:
    """Refuse a database of a cluster's machine.

    Such a machine may lack entries that other machines acknowledged. A cluster that continued from it would revive
    revoked tokens.
    """
    if VolumeFile(database).read(journal=state.journal).rev >= 0:
        raise errors.Conflict(
            f"{database} belongs to a machine of another cluster, and may lack entries of that cluster",
            hint="to continue from it, use `tkdb recover --from volume`",
        )


async def _source(database: Path, folder: Path) -> tuple[Path, bool]:
    """Return the file to begin with, and whether its journal is still to be begun."""
    if size_bytes(database):
        async with await Database.open(database) as opened:
            if (await opened.load()).head.seq:
                return database, False
    return folder / "tkdb.db", True
