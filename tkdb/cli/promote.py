"""``tkdb promote``: the move of the primary, by a handover or without asking the primary."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tkdb.cli.connect import connect
from tkdb.cli.consent import ConsentOptions, Loss, is_agreed
from tkdb.cli.machines import Asked, Machines, Urls, is_led, newest, seconds, urls
from tkdb.cli.output import Output, Rows, UsageError, faint, good
from tkdb.errors import OutcomeUnknown, TkdbError, Unavailable

if TYPE_CHECKING:
    from tkdb import api

WAIT_MS: Final = 15_000
"""The time for which the command waits for a move: enough for a lease of 9 s to run out and for a takeover after it."""
POLL_S: Final = 0.25

MachineName = Annotated[str | None, typer.Argument(metavar="[MACHINE]", help="The new primary.", show_default=False)]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="A takeover by the machine at the one URL, without asking the primary.")
]


def promote(
    output: Output,
    machine: MachineName = None,
    take_over: TakeOver = False,
    url: Urls = None,
    *,
    consent: ConsentOptions,
) -> None:
    """Make a machine the primary.

    With MACHINE, the primary publishes its entries and hands over to MACHINE, within about a second. If MACHINE doesn't
    take over, a lease runs out, and then another machine takes over. So the command asks first if no machine that
    answers has this name. With --take-over, the machine at the URL takes over without asking the primary: no
    acknowledged write is lost, and writes in flight at the primary end with an unknown outcome. So the command asks
    first. This needs a signer that may promote.

    \b
    $ tkdb promote m-3c4d
    m-3c4d is primary, of epoch 8, after 1.2 s
    """
    where = urls(url)
    if take_over is (machine is not None):
        raise UsageError(
            "exactly one of a machine's name and --take-over is expected", hint="see `tkdb promote --help`"
        )
    if machine is not None:
        _hand_over(output, where, machine, consent)
    else:
        _take_over(output, where, consent)


def _take_over(output: Output, where: Sequence[str], consent: ConsentOptions) -> None:
    if len(where) > 1:
        raise UsageError("--take-over needs the URL of exactly one machine", hint="give it with --url")
    cost = "no acknowledged write is lost; writes in flight at the primary end with an unknown outcome"
    with connect(url=where[0]) as client:
        summary = "this makes another machine primary without asking the primary"
        if not is_agreed(output, consent, summary, lambda: _loss(client.status(), cost)):
            return
        output.note(faint(cost))
        started = time.monotonic()
        taken = client.take_over()
    _say(output, taken.machine, taken.epoch, _ms_since(started))


def _loss(report: api.StatusReport, cost: str) -> Loss:
    primary = "" if report.cluster is None else report.cluster.primary
    return Loss(
        {"take_over": report.machine, "primary": primary},
        (
            f"{report.machine} takes over from {primary or 'nobody: no primary is known'}",
            Rows([("cost", cost)], indent=2),
        ),
    )


def _hand_over(output: Output, where: Sequence[str], machine: str, consent: ConsentOptions) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", machine) is None:
        raise UsageError("a machine's name has 1 to 64 characters of A-Z a-z 0-9 . _ -", hint="see `tkdb status`")
    with Machines(where) as machines:
        asked = machines.ask()
        head = newest(asked)
        if head is not None and head.primary == machine and is_led(head):
            output.result(
                {"primary": machine, "epoch": head.epoch, "moved": False},
                good(f"{machine} is already the primary, of epoch {head.epoch}"),
            )
            return
        client = machines.client(_nearest_to_primary(asked, head))
        if not _is_known(output, asked, machine, consent):
            return
        started = time.monotonic()
        try:
            client.hand_over(machine)
        except OutcomeUnknown as error:
            output.note(faint(f"{error.message}; checking which machine is the primary"))
        reached = _wait(machines, machine, 0 if head is None else head.epoch, started)
    _say(output, machine, reached.epoch, _ms_since(started))


def _is_known(output: Output, asked: Sequence[Asked], machine: str, consent: ConsentOptions) -> bool:
    """Return True if ``machine`` has just answered, or if the operator agrees to a machine that hasn't.

    A proxy may hide the other machines of a region, so a name that wasn't seen isn't always wrong.
    """
    names = sorted({each.report.machine for each in asked if each.report is not None})
    seen = machine in names
    if seen and not consent.dry_run:
        return True
    cost = "if it doesn't take over, nobody is primary until a lease has run out"
    title = f"the primary hands over to {machine}" if seen else f"no machine that answers is named {machine}"
    rows = Rows([("answered", ", ".join(names)), ("cost", cost)], indent=2)
    loss = Loss({"hand_over": machine, "answered": names}, (title, rows))
    return is_agreed(output, consent, f"{title}, only {', '.join(names)}; {cost}", lambda: loss)


def _nearest_to_primary(asked: Sequence[Asked], head: api.Cluster | None) -> str:
    """Return the URL for the request: the primary's if it is known, else any that answers and can pass the request on.

    Raises:
        TkdbError: no machine answers.
    """
    answering = [each for each in asked if each.report is not None]
    if not answering:
        raise asked[0].error or Unavailable("no machine answered", hint="try again")
    primary = [each for each in answering if head and each.report and each.report.machine == head.primary]
    return (primary or answering)[0].url


def _wait(machines: Machines, machine: str, epoch: int, started: float) -> api.Cluster:
    """Wait until ``machine`` is primary, and return the head.

    Raises:
        Unavailable: it isn't primary after ``WAIT_MS``, or another machine is, of a later epoch.
    """
    while True:
        head = newest(machines.ask())
        if head is not None and head.primary and head.epoch > epoch:
            if head.primary == machine:
                return head
            raise _not_come(machine, f"{head.primary} in {head.region} took over, epoch {head.epoch}")
        if _ms_since(started) >= WAIT_MS:
            raise _not_come(machine, _state(head))
        time.sleep(POLL_S)


def _state(head: api.Cluster | None) -> str:
    if head is None:
        return f"after {seconds(WAIT_MS)}, no machine that answers knows the primary"
    if not head.primary:
        return f"after {seconds(WAIT_MS)}, there is no primary; the next machine takes over when a lease has run out"
    return f"after {seconds(WAIT_MS)}, {head.primary} in {head.region} is still the primary, epoch {head.epoch}"


def _not_come(machine: str, state: str) -> TkdbError:
    return Unavailable(f"{machine} is not primary: {state}", hint=f"check with `tkdb status` that {machine} runs")


def _say(output: Output, machine: str, epoch: int, took_ms: int) -> None:
    output.result(
        {"primary": machine, "epoch": epoch, "moved": True, "took_ms": took_ms},
        good(f"{machine} is primary, of epoch {epoch}, after {seconds(took_ms)}"),
    )


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
