"""The tree of commands, and its only entry point."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from tkdb.cli import (
    audit,
    dev,
    doctor,
    drill,
    flycast,
    gc,
    init,
    keys,
    lab,
    organizations,
    promote,
    recover,
    regions,
    restore,
    serve,
    status,
    token,
)
from tkdb.cli.command import command
from tkdb.cli.inputs import check_arguments
from tkdb.cli.output import Output, UsageError
from tkdb.errors import TkdbError

EPILOG: Final = (
    "Exit codes: 0 yes, 1 denied or invalid, 2 usage, 3 unavailable (try again). Secrets come from stdin, a file or the"
    " environment, never as arguments."
)

# The base class of all errors for a wrong command line. It is found this way because its module differs by release.
_PARSER_ERROR: Final[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="tkdb",
    help="An isolated token authority: mints, verifies and revokes macaroons.",
    epilog=EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command(app)(dev.dev)
command(app)(serve.serve)
command(app)(init.init)
command(app)(status.status)
command(app)(regions.regions)
command(app)(doctor.doctor)
command(app)(promote.promote)
command(app)(restore.restore)
command(app)(gc.gc)
command(app)(recover.recover)
app.add_typer(token.app)
app.add_typer(organizations.app)
app.add_typer(keys.app)
app.add_typer(audit.app)
app.add_typer(lab.app)
app.add_typer(drill.app)
app.add_typer(flycast.app)


def run(arguments: Sequence[str]) -> int:
    """Run one command line, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    output = Output(json="--json" in arguments)
    try:
        check_arguments(arguments)
        code = app(args=list(arguments) or ["--help"], prog_name="tkdb", standalone_mode=False)
    except _PARSER_ERROR as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "tkdb"
        return output.fail(UsageError(error.format_message().rstrip("."), hint=f"{where} --help"))
    except TkdbError as error:
        return output.fail(error)
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0
