"""``tkdb audit``: the check that the journal is complete and unaltered, and that the tables match it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tkdb.cli import inputs
from tkdb.cli.command import command
from tkdb.cli.output import Output, Part, Rows, UsageError, faint, good

if TYPE_CHECKING:
    from tkdb.database.audit import AuditReport
    from tkdb.journal.seal import SealKeys
    from tkdb.signers import Signers

app = typer.Typer(name="audit", help="Check the journal.")

DatabasePath = Annotated[
    str | None,
    typer.Argument(metavar="[DATABASE]", help="The path of the database. Default: TKDB_DB.", show_default=False),
]

Strict = Annotated[
    bool, typer.Option("--strict", help="Fail (exit code 1) if the signature of any entry can't be checked.")
]


@app.callback()
def _group() -> None:
    """Check the journal."""


@command(app)
def verify(output: Output, database: DatabasePath = None, strict: Strict = False) -> None:
    """Check that the journal is complete and unaltered.

    This checks every entry, its place in the chain and its signature, and that the tables match the journal. It needs
    the sealing secrets (TKDB_SEAL_KEYS). With TKDB_SIGNERS, it checks the signatures of the signers listed there,
    including retired ones. It lists the entries of all other signers, whose signatures it can't check. The database is
    opened read-only, and may be in use. Keep the head in another place: if a later journal doesn't contain it, someone
    cut off the journal's end.

    \b
    $ tkdb audit verify tkdb.db
    the journal is valid
      authority   tkdb.example
      entries     1412
      signatures  1398 checked, 0 by unknown signers, 14 need none
      head        1412 7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730
    """
    from tkdb.signers import Signers

    path = database or inputs.setting("TKDB_DB")
    if not path:
        raise UsageError("no database is given", hint="give the path of its file, or set TKDB_DB")
    seal_keys = inputs.seal_keys()
    signers = Signers.parse_toml(inputs.setting("TKDB_SIGNERS") or "")
    name, report = asyncio.run(_audit(Path(path), seal_keys, signers))
    output.result(_document(name, report), *_parts(name, report))
    if report.unknown:
        problem = f"{report.unknown_entries} signatures couldn't be checked"
        output.note(faint(f"{problem}: add these signers to TKDB_SIGNERS, with retired = true"))
        if strict:
            raise typer.Exit(1)


def _document(name: str, report: AuditReport) -> Any:
    return {
        "authority": name,
        "entries": report.entries,
        "signed": report.signed,
        "unknown": report.unknown_entries,
        "unknown_signers": [
            {"signer": each.signer.hex(), "entries": each.entries, "first": each.first, "last": each.last}
            for each in report.unknown
        ],
        "head": {"seq": report.head.seq, "hash": report.head.hash.hex(), "time_ms": report.head.time_ms},
    }


def _parts(name: str, report: AuditReport) -> list[Part]:
    unsigned = report.entries - report.signed - report.unknown_entries
    signatures = f"{report.signed} checked, {report.unknown_entries} by unknown signers, {unsigned} need none"
    rows = [
        ("authority", name),
        ("entries", str(report.entries)),
        ("signatures", signatures),
        ("head", f"{report.head.seq} {report.head.hash.hex()}"),
    ]
    parts: list[Part] = [good("the journal is valid"), Rows(rows, indent=2)]
    if report.unknown:
        unknown = [(each.signer.hex(), str(each.entries), str(each.first), str(each.last)) for each in report.unknown]
        parts.append(Rows(unknown, header=("UNKNOWN SIGNER", "ENTRIES", "FIRST", "LAST"), indent=2))
    return parts


async def _audit(path: Path, seal_keys: SealKeys, signers: Signers) -> tuple[str, AuditReport]:
    from tkdb.database.audit import audit, verifier
    from tkdb.database.database import Database

    async with await Database.open(path, read_only=True) as database:
        name = (await database.load()).name
        verify = verifier(name, (signer.key for signer in signers))
        return name, await audit(database, seal_keys, verify)
