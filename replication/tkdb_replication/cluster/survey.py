"""A survey: the parts of a cluster in a bucket, and the possible ways to continue. It changes nothing.

Only a journal can be recovered that is complete, unaltered and this authority's. If the head is valid and such a
journal leads to it, nothing is lost (``Resume``). Otherwise acknowledged entries may be lost, and a new journal
continues (``Renew``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tkdb import errors
from tkdb.journal.entry import Entry
from tkdb_replication.cluster.backups import Backup, list_backups, scratch
from tkdb_replication.cluster.cluster import Audited, Cluster
from tkdb_replication.cluster.head_object import Absent, Damaged, Sound, read_head
from tkdb_replication.protocol.head import Checkpoint, Head


@dataclass(frozen=True, slots=True)
class Candidate:
    """A journal that could be recovered.

    Attributes:
        source: the path in the bucket, or the file.
        backup: the backup at that path; None for a file.
        audited: the result of its audit.
    """

    source: str
    backup: Backup | None
    audited: Audited

    @property
    def rank(self) -> tuple[int, int, int]:
        """The rank of this candidate: the best one has the highest. A later epoch decides, because its first entry
        followed every acknowledged entry before it."""
        epoch = (self.backup and self.backup.epoch) or 0
        return self.audited.end.epoch, self.audited.end.seq, epoch


@dataclass(frozen=True, slots=True)
class RefusedCandidate:
    """A path or file without a valid journal of this authority, and the cause."""

    source: str
    error: errors.TkdbError


@dataclass(frozen=True, slots=True)
class Nothing:
    """The head is valid, and its base leads to it: there is nothing to recover."""

    head: Head


@dataclass(frozen=True, slots=True)
class Resume:
    """The journal continues at the head's end: no acknowledged entry is lost.

    Attributes:
        head: the current head.
        candidate: contains the journal up to ``place``, one of the head's points.
        entries: the head's own entries, which lead from there to its end.
    """

    head: Head
    candidate: Candidate
    place: Checkpoint
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Renew:
    """A new journal continues, because acknowledged entries after the candidate's end may be lost.

    Attributes:
        candidate: the journal to continue from.
        lost: how many acknowledged entries are lost according to the head; None if no head shows it.
    """

    candidate: Candidate
    lost: int | None


Plan = Nothing | Resume | Renew


@dataclass(frozen=True, slots=True)
class Survey:
    """The result of a survey.

    Attributes:
        there: the object at the head's key.
        candidates: the candidates, the best first.
        refused: the paths and files without a journal.
        last_epoch: the highest epoch in the bucket.
        now_ms: the store's own time.
    """

    there: Sound | Damaged | Absent
    candidates: tuple[Candidate, ...]
    refused: tuple[RefusedCandidate, ...]
    last_epoch: int
    now_ms: int

    def divergences(self, chosen: Candidate) -> list[tuple[Candidate, int]]:
        """Return the candidates that ``chosen`` doesn't contain, each with the last entry that both have."""
        shared = [(other, chosen.audited.shares(other.audited)) for other in self.candidates]
        return [(other, seq) for other, seq in shared if seq < other.audited.end.seq]

    def plan(self, *, anyway: bool) -> Plan:
        """Return the plan for the recovery. ``anyway``: make one even if there is nothing to recover.

        Raises:
            NoBackup: there is no journal to continue from.
        """
        if not self.candidates:
            why = "".join(f"\n  {each.source}: {each.error.message}" for each in self.refused)
            raise errors.NoBackup(
                f"of {len(self.refused)} backups, none contains a valid journal of this authority{why}",
                hint="check TKDB_SEAL_KEYS and TKDB_NAME, or use --from volume on a machine that has its disk",
            )
        best = self.candidates[0]
        if not isinstance(self.there, Sound):
            return Renew(best, None)
        head = self.there.head
        if best.audited.end.epoch > head.epoch:
            # A primary has written that this head doesn't know: an older head was put back.
            return Renew(best, None)
        joined = [(each, place) for each in self.candidates if (place := _joins(each.audited, head)) is not None]
        if not anyway and any(each.source == head.base for each, _ in joined):
            return Nothing(head)
        if not joined:
            return Renew(best, max(head.seq - _last_common(best.audited, head), 0))
        candidate, place = joined[0]
        return Resume(head, candidate, place, head.after(place) or ())


def _joins(journal: Audited, head: Head) -> Checkpoint | None:
    """Return the last of the head's points that is on a journal, or None if the head doesn't continue the journal."""
    if journal.journal != head.journal:
        return None
    return next((place for place in reversed(head.places) if journal.contains(place)), None)


def _last_common(journal: Audited, head: Head) -> int:
    return min(journal.end.seq, head.places[0].seq)


async def survey_bucket(cluster: Cluster, near: Path) -> Survey:
    """Examine every backup in the bucket: restore it, and audit it. Copies are made next to ``near``, one at a time.

    Raises:
        Unavailable, StoreUnwritable: the object store or the disk can't be used now. A backup that can't be read now
            may be the best one.
    """
    there = await read_head(cluster.objects, cluster.head_keys)
    backups, now_ms = await list_backups(cluster.objects)
    ours = [backup for backup in backups if backup.epoch is not None]
    found = [await _restored(cluster, backup, near) for backup in ours]
    return _survey(there, backups, now_ms, found)


async def survey_volume(cluster: Cluster, database: Path) -> Survey:
    """Examine a machine's own database. Of the bucket, it only checks whether the head's base restores.

    Args:
        cluster: the bucket, and the secrets.
        database: the file. The caller holds it open for writing, so no other process can.

    Raises:
        ConfigurationError, BrokenJournal, WrongSealKey, StoreError: the database can't be used. The message gives the
            cause.
        Unavailable, StoreUnwritable: the object store or the disk can't be used now.
    """
    there = await read_head(cluster.objects, cluster.head_keys)
    backups, now_ms = await list_backups(cluster.objects)
    own = Candidate(str(database), None, await cluster.examine(database))
    named = [backup for backup in backups if isinstance(there, Sound) and backup.base == there.head.base]
    found = [await _restored(cluster, backup, database) for backup in named]
    return _survey(there, backups, now_ms, [own, *found])


def _survey(
    there: Sound | Damaged | Absent, backups: list[Backup], now_ms: int, found: list[Candidate | RefusedCandidate]
) -> Survey:
    candidates = sorted((each for each in found if isinstance(each, Candidate)), key=lambda each: each.rank)
    epochs = [backup.epoch or 0 for backup in backups] + [each.audited.end.epoch for each in candidates]
    if isinstance(there, Sound):
        epochs.append(there.head.epoch)
    refused = tuple(each for each in found if isinstance(each, RefusedCandidate))
    return Survey(there, tuple(reversed(candidates)), refused, max(epochs, default=0), now_ms)


async def _restored(cluster: Cluster, backup: Backup, near: Path) -> Candidate | RefusedCandidate:
    with scratch(near) as folder:
        try:
            audited = await cluster.restore(backup.base, folder / "tkdb.db", backup_bytes=backup.size_bytes)
        except (errors.StoreError, errors.ConfigurationError) as error:
            return RefusedCandidate(backup.base, error)
    return Candidate(backup.base, backup, audited)
