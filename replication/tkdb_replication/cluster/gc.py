"""Garbage collection: deletes the objects in the bucket that no rule and no recovery needs any more.

Every takeover begins a new path, whether it succeeds or not. The head's ``base`` is always kept. The other paths are
backups for ``tkdb recover``, until they have been superseded for some days. Objects that changed in the last hour are
never touched: a takeover may be in progress on a path that no head names yet.
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
    """What happens to a path."""

    BASE = "base"
    """Kept: the head names it."""
    KEPT = "kept"
    """Kept: it isn't old enough, or a takeover on it is in progress."""
    STRANGE = "strange"
    """Left alone: its name isn't one of tkdb's."""
    GARBAGE = "garbage"
    """Deleted, or to be deleted."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A path, and its fate."""

    backup: Backup
    fate: Fate


@dataclass(frozen=True, slots=True)
class Collection:
    """The result of a collection, or of a rehearsal, which deletes nothing.

    Attributes:
        paths: all paths, the newest first.
        probes: the number of objects that old probes have left.
    """

    paths: tuple[Judged, ...]
    probes: int


def judge(backups: Sequence[Backup], base: str, *, now_ms: int, keep_ms: int) -> list[Judged]:
    """Return the fate of each backup.

    A backup's age counts from its last write, or from the beginning of the next backup. The backup of an authority with
    few writes may have been the current one until just now, although its last write was weeks ago.

    Args:
        backups: all backups, the newest first.
        base: the head's base.
        now_ms: the store's time, in ms since 1970.
        keep_ms: how long a backup is kept; at least an hour.
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

    All times are the store's own: those of its answers and of its objects. The head is read first, and again before
    each path is deleted, so that no takeover in between loses its base.

    Args:
        objects: the bucket.
        keys: authenticate the head.
        keep_ms: how long backups are kept; at least an hour.
        rehearse: only find garbage, and delete nothing.

    Raises:
        BrokenHead: there is no valid head, so nothing shows which paths are needed. Nothing more was deleted.
        Unavailable: the object store gave no answer. Everything deleted until then was garbage.
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
            f"the head now names {backup.base}, so nothing more was deleted", hint="run `tkdb gc` again"
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
        raise errors.BrokenHead(f"{why}: nothing is deleted", hint="run `tkdb recover` to see the cause")
    return there.head


async def _probes(objects: Objects) -> Sequence[Listing]:
    listed = await objects.list(PREFIX, timeout_ms=LIST_TIMEOUT_MS)
    if isinstance(listed, Unknown):
        raise unavailable(listed)
    return listed.objects
