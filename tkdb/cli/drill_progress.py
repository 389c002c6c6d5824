"""The run of a drill at a terminal: its targets, its progress, and its result."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from os import getuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tkdb.cli import inputs
from tkdb.cli.output import Cell, Marked, Output, Part, Rows, bad, faint, good
from tkdb.errors import ConfigurationError

if TYPE_CHECKING:
    from tkdb_ops.drills.drill import Drill
    from tkdb_ops.drills.fly_target import Consent
    from tkdb_ops.drills.objectives import Limits
    from tkdb_ops.drills.record import CallRecord, Event
    from tkdb_ops.drills.report import Result
    from tkdb_ops.drills.run import Running
    from tkdb_ops.drills.session import FailedRun, Open, Session
    from tkdb_ops.drills.target import Target

_SHOW_S: Final = 0.5
_FAULT_MOST: Final = 40
_EVENT_STYLES: Final = {"phase": "dim", "fault": "yellow", "heal": "green", "seen": ""}
_HEADLINES: Final = ("writes_back_ms", "failed_reads", "lost_writes", "stale_accepts")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


# The targets.


@asynccontextmanager
async def lab() -> AsyncIterator[Target]:
    """Yield a lab that only drills use. `tkdb lab status --folder` shows it while it runs."""
    from tkdb_ops.drills.lab_target import OnLab, lab_on
    from tkdb_ops.lab.control import Control
    from tkdb_ops.lab.folder import claimed

    with claimed(Path(tempfile.gettempdir()) / f"tkdb-drill-{getuid()}") as folder:
        made = lab_on(folder)
        async with OnLab(made) as target, Control(made):
            yield target


@asynccontextmanager
async def fly(consent: Consent) -> AsyncIterator[Target]:
    """Yield an app on Fly, with the access settings from the environment."""
    from tkdb_ops.drills.fly_target import OnFly

    token = inputs.setting("FLY_API_TOKEN")
    if token is None:
        raise ConfigurationError("there is no token for Fly's API", hint="set FLY_API_TOKEN")
    async with OnFly.from_environment(consent, token) as target:
        yield target


def session(opening: Open, limits: Limits, seed: int, output: Output, *, options: str = "") -> Session:
    """Return a session that runs drills, and writes its events to ``output``.

    ``options`` has the options of the target, for the command that repeats a drill.
    """
    from tkdb_ops.drills.session import Session

    watched = output.is_live

    def tell(event: Event) -> None:
        if not watched:
            output.note(f"{event.at_ms / 1000:6.1f} s  {event.what:<6} {event.text}")

    return Session(
        opening, limits, seed=seed, tell=tell, again=lambda name: f"tkdb drill run {name}{options} --seed {seed}"
    )


async def run(output: Output, session: Session, drills: Sequence[Drill]) -> tuple[list[Result | FailedRun], bool]:
    """Run the drills, and show their progress. Return their results, and whether a Ctrl-C stopped them early.

    A Ctrl-C stops the running drill, after everything is put back.
    """
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None  # noqa: S101  a coroutine runs in a task
    before = {each: signal.getsignal(each) for each in _SIGNALS}

    def end() -> None:
        for each in _SIGNALS:  # a second signal must not stop the code that puts everything back
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)
        running.cancel()

    for each in _SIGNALS:
        loop.add_signal_handler(each, end)
    ended: list[Result | FailedRun] = []
    try:
        async with aclosing(session.run(drills)) as results:
            while True:
                with output.live() as show:
                    watching = asyncio.create_task(_watch(show, session))
                    try:
                        result = await anext(results, None)
                    finally:
                        watching.cancel()
                        await asyncio.gather(watching, return_exceptions=True)
                        if show is not None:
                            show(Rows([]))
                if result is None:
                    return ended, False
                ended.append(result)
                output.note(*summary(result))
    except asyncio.CancelledError:
        output.note(bad("stopped early; everything is put back"))
        return ended, True
    finally:
        for each, handler in before.items():
            loop.remove_signal_handler(each)
            signal.signal(each, handler)


async def _watch(show: Callable[[Rows], None] | None, session: Session) -> None:
    while show is not None:
        show(Rows(_standing(session.running)))
        await asyncio.sleep(_SHOW_S)


def _standing(running: Running | None) -> Iterator[Sequence[Cell]]:
    """Yield the progress of the running drill, in a few lines that are redrawn regularly."""
    if running is None:
        yield (Marked("●", "yellow"), faint("starting the lab: an object store, proxies and machines"))
        return
    now = running.now
    yield (Marked("●", "yellow"), Marked(f"{running.drill.name}", "bold"), f"{now.phase}", f"{now.at_ms / 1000:.0f} s")
    failed = bad(f"{now.failed} failed") if now.failed else faint("0 failed")
    yield ("", f"{now.calls:,} calls", failed, f"{now.writes:,} writes acknowledged")
    yield ("", "now", _p99(now.recent), "")
    for sight in now.sights:
        health = (
            good(sight.health) if sight.health == "ok" else bad(f"{sight.health} {sight.fault[:_FAULT_MOST]}".strip())
        )
        role = Marked(sight.role, "bold") if sight.role == "primary" else sight.role
        yield ("", sight.machine, role, health)
    for event in running.events[-3:]:
        yield ("", faint(f"{event.at_ms / 1000:.1f} s"), Marked(event.text, _EVENT_STYLES[event.what]), "")


# The results.


def summary(result: Result | FailedRun) -> Iterator[Part]:
    """Yield the result of a drill, in about five lines."""
    from tkdb_ops.drills.session import FailedRun
    from tkdb_ops.drills.verdict import format_value

    if isinstance(result, FailedRun):
        yield bad(f"the drill {result.drill.name} could not be run: {result.message}")
        if result.hint:
            yield faint(f"try: {result.hint}")
        return
    record, figures = result.record, result.verdict.figures
    lines: list[Sequence[Cell]] = [_phase("warm up", record.calls, 0, record.fault_ms)]
    lines += [_line("fault", event.text) for event in record.events if event.what == "fault"]
    back = [
        f"{what} back after {format_value('_ms', value)}"
        for what, value in (("reads", figures.reads_back_ms), ("writes", figures.writes_back_ms))
        if value is not None
    ]
    lost = f"{figures.lost_writes} of {figures.acknowledged:,} acknowledged writes lost"
    lines.append(_line("recover", " · ".join(filter(None, (*back, lost, figures.old_primary)))))
    lines.append(_phase("after", record.calls, record.healed_ms, record.end_ms))
    yield Marked(result.drill.name, "bold")
    yield Rows(lines)
    yield _verdict(result)
    yield faint(f"again: {record.again}")


def verdicts(ended: Sequence[Result | FailedRun]) -> Iterator[Part]:
    """Yield a table with one row for the outcome of each drill."""
    from tkdb_ops.drills.session import FailedRun

    rows: list[Sequence[Cell]] = []
    for each in ended:
        if isinstance(each, FailedRun):
            rows.append((bad("not run"), each.drill.name, each.message))
            continue
        missed = "; ".join(finding.text for finding in each.verdict.findings if not finding.met)
        unmeasurable = Marked("not measurable here", "yellow")
        mark = good("pass") if each.verdict.passed else unmeasurable if each.verdict.unmeasurable else bad("fail")
        rows.append((mark, each.record.drill, missed) if missed else (mark, each.record.drill))
    yield Rows(rows)


def document(result: Result | FailedRun) -> dict[str, Any]:
    """Return the result of a drill as JSON, for programs."""
    from tkdb_ops.drills.history import Run
    from tkdb_ops.drills.session import FailedRun

    if isinstance(result, FailedRun):
        return {
            "drill": result.drill.name,
            "passed": None,
            "error": {"code": result.code, "message": result.message, "hint": result.hint},
        }
    run = Run.from_record(result.record, result.verdict)
    findings = [
        {"objective": each.objective, "limit": each.limit, "measured": each.measured, "met": each.met}
        for each in result.verdict.findings
    ]
    return {
        "drill": run.drill,
        "passed": run.passed,
        "delay": result.record.delay,
        "target": run.target,
        "seed": run.seed,
        "began": run.began,
        "versions": run.versions,
        "objectives": findings,
        "figures": result.verdict.figures,
        "events": [{"at_ms": each.at_ms, "what": each.what, "text": each.text} for each in result.record.events],
        "again": result.record.again,
    }


def _verdict(result: Result) -> Part:
    passed = result.verdict.passed
    shown = [each for each in result.verdict.findings if (each.objective in _HEADLINES if passed else not each.met)]
    if result.verdict.unmeasurable:
        return Marked(
            f"verdict: not measurable here, because this machine is too busy: {result.record.delay}", "yellow"
        )
    shown_text = "   ".join(f"{each.text} {'✓' if each.met else '✗'}" for each in shown)
    return good(f"verdict: pass   {shown_text}") if passed else bad(f"verdict: fail   {shown_text}")


def _phase(name: str, calls: Sequence[CallRecord], from_ms: int, to_ms: int) -> Sequence[Cell]:
    own = [call for call in calls if from_ms <= call.at_ms < to_ms]
    failed = sum(call.failed for call in own)
    text = f"{(to_ms - from_ms) / 1000:.0f} s  {len(own):,} calls  {failed} failed  {_p99(own)}"
    return (bad("●") if failed else good("●"), name, text.rstrip())


def _line(name: str, text: str) -> Sequence[Cell]:
    return (Marked("●", "yellow") if name == "fault" else good("●"), name, text)


def _p99(calls: Sequence[CallRecord]) -> str:
    from tkdb_ops.drills.figures import percentile

    p99_ms = percentile((call.took_ms for call in calls if call.kind.reads and not call.failed), 99)
    return "" if p99_ms is None else f"reads p99 {p99_ms:,} ms"
