"""``tkdb audit``: is the journal whole and unaltered, and is everything what it says?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tkdb.cli import inputs
from tkdb.cli.command import command
from tkdb.cli.output import Output, Rows, UsageError, good

if TYPE_CHECKING:
    from tkdb.database.audit import AuditReport
    from tkdb.journal.seal import SealKeys
    from tkdb.signers import Signers

app = typer.Typer(name="audit", help="Check the journal.")

DatabasePath = Annotated[
    str | None,
    typer.Argument(metavar="[DATABASE]", help="The database's path; by default TKDB_DB.", show_default=False),
]


@app.callback()
def _group() -> None:
    """Check the journal."""


@command(app)
def verify(output: Output, database: DatabasePath = None) -> None:
    """Check that the journal is whole and unaltered.

    Every entry is checked, its chain and signatures, and that the tables are what it says. Needs the sealing
    secrets (TKDB_SEAL_KEYS); with TKDB_SIGNERS, the signatures that it holds the keys of are checked. The database
    is opened read-only, and may be in use. Keep the head elsewhere: a journal that lacks it was cut short.

    \b
    $ tkdb audit verify tkdb.db
    the journal is whole
      authority   tkdb.example
      entries     1412
      signatures  1398 checked, 0 by unknown signers, 14 need none
      head        1412 7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730
    """
    from tkdb.signers import Signers

    path = database or inputs.setting("TKDB_DB")
    if not path:
        raise UsageError("no database was given", hint="name its file, or set TKDB_DB")
    seal_keys = inputs.seal_keys()
    signers = Signers.parse_toml(inputs.setting("TKDB_SIGNERS") or "")
    name, report = asyncio.run(_audit(Path(path), seal_keys, signers))
    unsigned = report.entries - report.signed - report.unknown
    signatures = f"{report.signed} checked, {report.unknown} by unknown signers, {unsigned} need none"
    rows = [
        ("authority", name),
        ("entries", str(report.entries)),
        ("signatures", signatures),
        ("head", f"{report.head.seq} {report.head.hash.hex()}"),
    ]
    document = {
        "authority": name,
        "entries": report.entries,
        "signed": report.signed,
        "unknown": report.unknown,
        "head": {"seq": report.head.seq, "hash": report.head.hash.hex(), "time_ms": report.head.time_ms},
    }
    output.result(document, good("the journal is whole"), Rows(rows, indent=2))


async def _audit(path: Path, seal_keys: SealKeys, signers: Signers) -> tuple[str, AuditReport]:
    from tkdb.database.audit import audit, verifier
    from tkdb.database.database import Database

    async with await Database.open(path, read_only=True) as database:
        name = (await database.load()).name
        verify = verifier(name, (signer.key for signer in signers))
        return name, await audit(database, seal_keys, verify)
