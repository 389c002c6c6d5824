"""Garbage: what lies in the bucket and what no rule, and no recovery, needs any more.

Every takeover begins a path of its own, whether it succeeds or not. The head's ``base`` is needed for good. The others
are backups for ``tkdb recover``, until they have been superseded for some days. What changed in the last hour is never
touched: a takeover may be under way on a path that no head names yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tkdb import errors
from tkdb_replication.bucket.conformance import PREFIX
from tkdb_replication.bucket.objects import Listing, Objects, Unknown
from tkdb_replication.cluster.backups import LIST_TIMEOUT_MS, Backup, list_backups
from tkdb_replication.cluster.head_object import TIMEOUT_MS, Absent, Damaged, read_head, unavailable
from tkdb_replication.protocol.head import Head, HeadKeys

LEAST_KEEP_MS: Final = 3_600_000
DEFAULT_KEEP_MS: Final = 7 * 86_400_000
_AT_ONCE: Final = 8


class Fate(StrEnum):
    """What becomes of a path."""

    BASE = "base"
    """The head names it: kept."""
    KEPT = "kept"
    """A backup that isn't old enough, or a takeover that is under way."""
    STRANGE = "strange"
    """Not a name that we give: left alone."""
    GARBAGE = "garbage"
    """Deleted, or to be deleted."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A path, and what becomes of it."""

    backup: Backup
    fate: Fate


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection found, and did unless it was a rehearsal.

    Attributes:
        paths: all that there are, the newest first.
        probes: how many objects old probes have left.
    """

    paths: tuple[Judged, ...]
    probes: int


def judge(backups: Sequence[Backup], base: str, *, now_ms: int, keep_ms: int) -> list[Judged]:
    """Return what becomes of each backup.

    A backup grows old from when it was last written, or when the next one was begun: that of a quiet authority may
    have been the current one until just now, and not have been written to for weeks.

    Args:
        backups: all of them, the newest first.
        base: the head's.
        now_ms: the store's time, ms since 1970.
        keep_ms: how long a backup is kept; an hour at least.
    """
    before_ms = now_ms - max(keep_ms, LEAST_KEEP_MS)
    judged, next_began_ms = [], 0
    for backup in backups:
        if backup.base == base:
            fate = Fate.BASE
        elif backup.epoch is None:
            fate = Fate.STRANGE
        elif max(backup.newest_ms, next_began_ms) > before_ms:
            fate = Fate.KEPT
        else:
            fate = Fate.GARBAGE
        judged.append(Judged(backup, fate))
        next_began_ms = backup.oldest_ms if backup.epoch is not None else next_began_ms
    return judged


async def collect(
    objects: Objects, keys: HeadKeys, *, keep_ms: int = DEFAULT_KEEP_MS, rehearse: bool = False
) -> Collection:
    """Delete the garbage of a bucket.

    Times are the store's own, those of its answers and of its objects. The head is read first, and again before each
    path is deleted, so that no takeover in between loses its base.

    Args:
        objects: the bucket.
        keys: authenticate the head.
        keep_ms: how long backups are kept; an hour at least.
        rehearse: find only, delete nothing.

    Raises:
        BrokenHead: there is no head, or none that can be believed, so that nothing shows what is needed. Nothing more
            was deleted.
        Unavailable: the object store gave no answer. What was deleted until then was garbage.
    """
    head = await _head(objects, keys)
    backups, now_ms = await list_backups(objects)
    judged = judge(backups, head.base, now_ms=now_ms, keep_ms=keep_ms)
    probes = [probe for probe in await _probes(objects) if probe.modified_ms <= now_ms - LEAST_KEEP_MS]
    if not rehearse:
        for each in judged:
            if each.fate is Fate.GARBAGE:
                await _delete_path(objects, keys, each.backup)
        await _delete(objects, probes)
    return Collection(tuple(judged), len(probes))


async def _delete_path(objects: Objects, keys: HeadKeys, backup: Backup) -> None:
    if (await _head(objects, keys)).base == backup.base:
        raise errors.Conflict(
            f"the head names {backup.base} by now: nothing more was deleted", hint="run `tkdb gc` again"
        )
    await _delete(objects, backup.objects)


async def _delete(objects: Objects, listed: Iterable[Listing]) -> None:
    keys = [each.key for each in listed]
    for at in range(0, len(keys), _AT_ONCE):
        deleting = (objects.delete(key, timeout_ms=TIMEOUT_MS) for key in keys[at : at + _AT_ONCE])
        for outcome in await asyncio.gather(*deleting):
            if isinstance(outcome, Unknown):
                raise unavailable(outcome)


async def _head(objects: Objects, keys: HeadKeys) -> Head:
    there = await read_head(objects, keys)
    if isinstance(there, Absent | Damaged):
        why = "there is no head" if isinstance(there, Absent) else there.error.message
        raise errors.BrokenHead(f"{why}: nothing is deleted", hint="look with `tkdb recover`")
    return there.head


async def _probes(objects: Objects) -> Sequence[Listing]:
    listed = await objects.list(PREFIX, timeout_ms=LIST_TIMEOUT_MS)
    if isinstance(listed, Unknown):
        raise unavailable(listed)
    return listed.objects
