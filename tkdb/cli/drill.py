"""``tkdb drill``: faults in a multi-region authority under load, and the check of the result."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tkdb.cli import drill_progress
from tkdb.cli.command import command
from tkdb.cli.output import Output, Rows, UsageError
from tkdb.errors import ConfigurationError

if TYPE_CHECKING:
    from tkdb_ops.drills.drill import Drill
    from tkdb_ops.drills.objectives import Limits
    from tkdb_ops.drills.session import Open

app = typer.Typer(name="drill", help="Inject faults into a multi-region authority under load, and check the result.")

Where = Literal["lab", "fly"]

_ALL: Final = "all"
_OBJECTIVES: Final = Path("drills.toml")

Folder = Annotated[Path, typer.Option(metavar="PATH", help="The folder for reports and for the history of runs.")]
Objectives = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The file with the limits. Default: drills.toml, if it exists."),
]


@dataclass(frozen=True)
class OnFly:
    """The additional options of a drill on real Fly."""

    app: Annotated[str | None, typer.Option(metavar="APP", help="On Fly: the app that gets the faults.")] = None
    i_consent_to_break: Annotated[
        str | None, typer.Option(metavar="APP", help="On Fly: the app's name again, as your consent.")
    ] = None
    only: Annotated[
        str | None, typer.Option(metavar="MACHINES", help="On Fly: the machines that may get faults. Default: all.")
    ] = None


@command(app, "list")
def list_drills(
    output: Output, target: Annotated[Where, typer.Option(help="The target of the drills.")] = "lab"
) -> None:
    """List the drills.

    \b
    $ tkdb drill list
    DRILL         WHAT HAPPENS
    nearest-lost  The machine nearest to callers is lost
    """
    documents = [
        {
            "name": each.name,
            "title": each.title,
            "shows": each.shows,
            "fault": [step.text for step in each.fault],
            "mend": [step.text for step in each.mend],
        }
        for each in _possible(target)
    ]
    output.result(
        {"drills": documents},
        Rows(((str(each["name"]), str(each["title"])) for each in documents), ("DRILL", "WHAT HAPPENS")),
    )


@command(app)
def run(
    output: Output,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the drill, or `all`.")],
    target: Annotated[Where, typer.Option(help="The target: a lab on this machine, or real Fly.")] = "lab",
    seed: Annotated[int | None, typer.Option(metavar="N", help="The seed of the load. Default: random.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The report's file. Default: in --folder.")
    ] = None,
    objectives: Objectives = None,
    folder: Folder = Path("drills"),
    fly: OnFly = OnFly(),
) -> None:
    """Run a drill: inject a fault while clients in several regions mint, verify and revoke.

    The clients' results are checked against objectives, and shown in a report, a single HTML page. Exit 1: an
    objective was missed. Exit 3: a drill could not be run, or this machine is too busy to measure it. At the end,
    everything is put back, also after Ctrl-C.

    \b
    $ tkdb drill run primary-killed
    ● warm up   6 s  119 calls  0 failed  p99 214 ms
    ● fault     killed: tkdb-iad-1
    ● recover   reads back after 0.28 s · writes back after 11.7 s · 0 of 46 acknowledged writes lost
    ● after     6 s  130 calls  0 failed  p99 221 ms
    verdict: pass
    """
    from tkdb_ops.drills import catalogue, history
    from tkdb_ops.drills.report import Result, page

    drills = _possible(target) if name == _ALL else [catalogue.find(name)]
    seed = int.from_bytes(os.urandom(3)) if seed is None else seed
    options = "" if target == "lab" else f" --target fly --app {fly.app} --i-consent-to-break {fly.app}"
    session = drill_progress.session(_opening(target, fly), _limits(objectives), seed, output, options=options)
    _make(report.parent if report else folder)  # made before the drills, so that an error doesn't lose their results
    ended, interrupted = asyncio.run(drill_progress.run(output, session, drills))
    results = [each for each in ended if isinstance(each, Result)]
    for each in ended:
        if not results and not isinstance(each, Result) and each.code == ConfigurationError.code:
            raise ConfigurationError(each.message, hint=each.hint)
    if results:
        path = report or folder / f"{results[0].record.began[:10]}-{name}.html"
        _write(path, page(results))
        history.append(folder / history.FILE, [history.Run.from_record(each.record, each.verdict) for each in results])
        output.note(f"report: {path}")
    output.result({"drills": [drill_progress.document(each) for each in ended]}, *drill_progress.verdicts(ended))
    if interrupted:
        raise typer.Abort
    if len(results) < len(drills):
        raise typer.Exit(3)
    if any(each.verdict.failed for each in results):
        raise typer.Exit(1)
    if any(each.verdict.unmeasurable for each in results):
        raise typer.Exit(3)


def _possible(target: Where) -> list[Drill]:
    """Return the drills that are possible on a target."""
    from tkdb_ops.drills import catalogue, fly_target, lab_target

    can = {"lab": lab_target.can, "fly": fly_target.can}[target]
    return [drill for drill in catalogue.DRILLS if can(drill)]


def _opening(target: Where, fly: OnFly) -> Open:
    """Return the function that opens the target."""
    if target == "lab":
        return drill_progress.lab
    from tkdb_ops.drills.fly_target import Consent

    if not fly.app or fly.app != fly.i_consent_to_break:
        raise UsageError(
            "a drill on Fly injects faults into machines that serve requests",
            hint="give the app's name in --app, and again in --i-consent-to-break",
        )
    only = tuple(filter(None, (each.strip() for each in (fly.only or "").split(","))))
    if fly.only is not None and not only:
        raise UsageError("--only names no machine", hint="name one, or leave --only out for every machine")
    return lambda: drill_progress.fly(Consent(fly.app or "", only))


def _limits(path: Path | None) -> Limits:
    from tkdb_ops.drills.catalogue import NAMES
    from tkdb_ops.drills.objectives import Limits, read

    if path is None and not _OBJECTIVES.exists():
        return Limits()
    try:
        return read((path or _OBJECTIVES).read_text("utf-8"), NAMES)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path or _OBJECTIVES} can't be read: {error}", hint="give another --objectives") from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be created: {error.strerror}", hint="give another --folder or --report"
        ) from None


def _write(path: Path, html: str) -> None:
    try:
        path.write_text(html, "utf-8")
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}", hint="give another --report") from None
