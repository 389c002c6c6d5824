"""``tkdb recover``: the recovery of a cluster that has lost its head, or the base in its head."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from tkdb.cli.cluster import opened
from tkdb.cli.output import Output, UsageError, faint

if TYPE_CHECKING:
    from tkdb.settings import Settings
    from tkdb_replication.cluster.recovery import RecoveryResult
    from tkdb_replication.cluster.survey import Plan, Survey


class Source(StrEnum):
    """The source in which the journal is searched."""

    BUCKET = "bucket"
    VOLUME = "volume"


From = Annotated[
    Source, typer.Option("--from", help="The source: all backups in the bucket, or this machine's TKDB_DB.")
]
Force = Annotated[bool, typer.Option("--force", help="A recovery even if there is nothing to recover.")]
AcceptLoss = Annotated[bool, typer.Option("--accept-loss", help="Your consent that acknowledged entries may be lost.")]


class Outcome(NamedTuple):
    """The findings, the decision, and the action."""

    survey: Survey
    plan: Plan
    done: RecoveryResult | None


def recover(output: Output, from_: From = Source.BUCKET, force: Force = False, accept_loss: AcceptLoss = False) -> None:
    """Recover a cluster if its head is lost or damaged, or if the base in its head can't be restored.

    Stop every machine first. This reads the environment of `tkdb serve`. It restores and audits every backup, and shows
    the results. If nothing can be lost, it recovers the cluster at once. Otherwise it needs --accept-loss, and changes
    nothing without it. Exit 1: nothing was changed.

    \b
    $ tkdb recover
    the head is lost
    SOURCE                            EPOCH  ENTRIES  LAST ENTRY
    epochs/00000002-2c26b46b68ffc68f  2      14       2026-11-23 03:41:44 UTC  chosen
    epochs/00000001-9f86d081884c7d65  1      12       2026-11-23 03:11:02 UTC  contained in the chosen one
    entries acknowledged after entry 14 (2026-11-23 03:41:44 UTC) are lost
    …
    nothing was changed; to accept the loss: tkdb recover --accept-loss
    """
    from tkdb.cli import survey_report
    from tkdb.settings import Settings

    outcome = asyncio.run(_recover(output, Settings.parse(os.environ), from_, force=force, accept_loss=accept_loss))
    output.result(survey_report.document(*outcome), *survey_report.parts(*outcome))
    for line in survey_report.following(*outcome):
        output.note(line)
    if outcome.done is None:
        raise typer.Exit(1)


async def _recover(output: Output, settings: Settings, source: Source, *, force: bool, accept_loss: bool) -> Outcome:
    from tkdb.database.database import Database
    from tkdb_replication.cluster.head_object import Absent
    from tkdb_replication.cluster.recovery import check_idle, renew, resume
    from tkdb_replication.cluster.survey import Renew, Resume, survey_bucket, survey_volume

    database = Path(settings.database)
    async with AsyncExitStack() as stack:
        if source is Source.VOLUME:
            # The lock is held until the end, so that this machine's process can't run at the same time.
            _check_there(database)
            await stack.enter_async_context(await Database.open(database, checkpoints=False))
        cluster = await stack.enter_async_context(opened(settings))
        if source is Source.VOLUME:
            survey = await survey_volume(cluster, database)
        else:
            survey = await survey_bucket(cluster, database)
        plan = survey.plan(anyway=force)
        done: RecoveryResult | None = None
        if isinstance(plan, Resume) or (isinstance(plan, Renew) and accept_loss):
            if not isinstance(survey.there, Absent):
                output.note(faint("watching the head for the length of a lease, in case a primary is alive"))
            await check_idle(cluster, survey, lease_ms=settings.lease_ms)
            if isinstance(plan, Resume):
                done = await resume(cluster, survey, plan, database)
            else:
                done = await renew(cluster, survey, plan, database)
        return Outcome(survey, plan, done)


def _check_there(database: Path) -> None:
    if not database.exists():
        raise UsageError(f"there is no {database}", hint="set TKDB_DB to this machine's database")
