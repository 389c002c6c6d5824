"""``tkdb restore``: the recovery to a point in time."""

from __future__ import annotations

from typing import Annotated

import typer

from tkdb.cli.connect import connect
from tkdb.cli.consent import ConsentOptions, is_agreed
from tkdb.cli.inputs import instant
from tkdb.cli.options import RequestId
from tkdb.cli.output import Output, UsageError, good


def restore(
    output: Output,
    seq: Annotated[int | None, typer.Option(min=1, metavar="N", help="The entry of the journal to go back to.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The time whose last entry to go back to: 2026-01-31T12:00:00Z.")
    ] = None,
    *,
    consent: ConsentOptions,
    request_id: RequestId = None,
) -> None:
    """Restore organizations and keys to an earlier state.

    That is the state after one entry of the journal. Organizations and keys made since then are permanently lost.
    Revocations, retired keys and deleted organizations since then stay as they are. This shows what ends, and asks. It
    needs a signer that may restore.

    \b
    $ tkdb restore --at 2026-11-22T10:00:00Z --yes
    restored to entry 118: 3 organizations and keys changed
    """
    if (seq is None) == (at is None):
        raise UsageError("exactly one of --seq and --at is expected", hint="give --seq N or --at TIME")
    at_ms = None if at is None else int(instant(at) * 1000)
    from tkdb.cli import losses

    summary = "this permanently ends every organization and key made since then"
    with connect() as client:
        if not is_agreed(output, consent, summary, lambda: losses.of_restore(client, seq, at_ms)):
            return
        restored = client.restore(seq=seq, at_ms=at_ms, request_id=request_id)
    what = f"{restored.changed:,} organizations and keys changed" if restored.changed else "nothing differed"
    output.result(
        {"seq": restored.seq, "changed": restored.changed}, good(f"restored to entry {restored.seq:,}: {what}")
    )
