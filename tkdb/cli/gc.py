"""``tkdb gc``: the deletion of objects in the bucket that nothing needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tkdb.cli.cluster import bucket_only, size
from tkdb.cli.consent import ConsentOptions, Loss, is_agreed
from tkdb.cli.formatting import moment
from tkdb.cli.output import Cell, Marked, Output, Rows, faint, good

if TYPE_CHECKING:
    from tkdb_replication.cluster.gc import Collection

_DAY_MS: Final = 86_400_000

KeepDays = Annotated[
    float,
    typer.Option(
        "--keep-days",
        metavar="DAYS",
        min=0,
        max=36_500,
        help="The number of days for which superseded backups are kept.",
    ),
]


def gc(output: Output, keep_days: KeepDays = 7, *, consent: ConsentOptions) -> None:
    """Delete objects from the bucket that nothing needs any more.

    Each takeover begins a new path in the bucket. The path that the head names is never deleted. The others are backups
    for `tkdb recover` until they have been superseded for --keep-days, and for an hour at least. This shows the paths
    that would be deleted, and asks. It needs TKDB_SEAL_KEYS, to authenticate the head, and the bucket's variables.

    \b
    $ tkdb gc --dry-run
    PATH                              EPOCH  SIZE     NEWEST                   FATE
    epochs/00000002-2c26b46b68ffc68f  2      61.0 kB  2026-11-23 03:41:44 UTC  kept: the head names it
    epochs/00000001-9f86d081884c7d65  1      60.2 kB  2026-11-02 10:02:11 UTC  to be deleted
    1 of 2 paths would be deleted, 60.2 kB
    """
    summary = "this permanently deletes the backups that a newer one supersedes"
    if is_agreed(output, consent, summary, lambda: _loss(_collect(keep_days, rehearse=True), dry_run=True)):
        loss = _loss(_collect(keep_days, rehearse=False), dry_run=False)
        output.result(loss.document, *loss.parts)


def _loss(collecting: Coroutine[Any, Any, Collection], *, dry_run: bool) -> Loss:
    """Return the paths that are deleted, or that would be."""
    collection = asyncio.run(collecting)
    garbage = [each.backup for each in collection.paths if each.fate.value == "garbage"]
    freed_bytes = sum(backup.size_bytes for backup in garbage)
    paths = [
        {
            "path": each.backup.base,
            "epoch": each.backup.epoch,
            "bytes": each.backup.size_bytes,
            "newest_ms": each.backup.newest_ms,
            "fate": each.fate.value,
        }
        for each in collection.paths
    ]
    document = {"deleted": not dry_run, "paths": paths, "probes": collection.probes, "bytes": freed_bytes}
    would = "would be" if dry_run else "were"
    probes = f" and {collection.probes} objects of old probes" if collection.probes else ""
    total = f"{len(garbage)} of {len(paths)} paths{probes} {would} deleted, {size(freed_bytes)}"
    return Loss(document, (_table(collection, dry_run=dry_run), good(total)))


async def _collect(keep_days: float, *, rehearse: bool) -> Collection:
    from tkdb_replication.cluster.gc import collect

    async with bucket_only() as (objects, keys):
        return await collect(objects, keys, keep_ms=int(keep_days * _DAY_MS), rehearse=rehearse)


def _table(collection: Collection, *, dry_run: bool) -> Rows:
    fates: dict[str, Cell] = {
        "base": "kept: the head names it",
        "kept": "kept: a backup",
        "strange": faint("left alone: tkdb uses no such name"),
        "garbage": Marked("to be deleted" if dry_run else "deleted", "yellow"),
    }
    rows: list[Sequence[Cell]] = [
        (
            each.backup.base,
            "-" if each.backup.epoch is None else str(each.backup.epoch),
            size(each.backup.size_bytes),
            moment(each.backup.newest_ms / 1000),
            fates[each.fate.value],
        )
        for each in collection.paths
    ]
    return Rows(rows, header=("PATH", "EPOCH", "SIZE", "NEWEST", "FATE") if rows else ())
