"""``tkdb promote``: move the primary, by plan or without asking it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tkdb.cli.connect import connect
from tkdb.cli.machines import Asked, Machines, Urls, is_led, newest, seconds, urls
from tkdb.cli.output import Output, UsageError, faint, good
from tkdb.errors import OutcomeUnknown, TkdbError, Unavailable

if TYPE_CHECKING:
    from tkdb import api

WAIT_MS: Final = 15_000
"""So long a move is waited for. A lease of 9 s runs out meanwhile, and the next machine has had its turn."""
POLL_S: Final = 0.25

MachineName = Annotated[str | None, typer.Argument(metavar="[MACHINE]", help="The machine.", show_default=False)]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Without asking the primary: the machine at the one URL takes over.")
]


def promote(output: Output, machine: MachineName = None, take_over: TakeOver = False, url: Urls = None) -> None:
    """Make a machine the primary.

    By plan: the primary publishes what it has and hands over to MACHINE, within about a second. If MACHINE doesn't
    come, a lease runs out, and another machine takes over. With --take-over, the machine at the URL takes over without
    asking the primary: nothing acknowledged is lost, and writes under way there end with an unknown outcome. Needs a
    signer that may promote.

    \b
    $ tkdb promote m-3c4d
    m-3c4d is primary, of epoch 8, after 1.2 s
    """
    where = urls(url)
    if take_over is (machine is not None):
        raise UsageError("a machine's name or --take-over was expected, and one of them", hint="tkdb promote --help")
    if machine is not None:
        _hand_over(output, where, machine)
    else:
        _take_over(output, where)


def _take_over(output: Output, where: Sequence[str]) -> None:
    if len(where) > 1:
        raise UsageError("--take-over takes the one URL of the machine that is meant", hint="give it with --url")
    output.note(faint("nothing acknowledged is lost; writes under way at the primary end with an unknown outcome"))
    with connect(url=where[0]) as client:
        started = time.monotonic()
        taken = client.take_over()
    _say(output, taken.machine, taken.epoch, _ms_since(started))


def _hand_over(output: Output, where: Sequence[str], machine: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", machine) is None:
        raise UsageError("a machine's name is 1 to 64 of A-Z a-z 0-9 . _ -", hint="see `tkdb status`")
    with Machines(where) as machines:
        asked = machines.ask()
        head = newest(asked)
        if head is not None and head.primary == machine and is_led(head):
            output.result(
                {"primary": machine, "epoch": head.epoch, "moved": False},
                good(f"{machine} is primary already, of epoch {head.epoch}"),
            )
            return
        client = machines.client(_nearest_to_primary(asked, head))
        started = time.monotonic()
        try:
            client.hand_over(machine)
        except OutcomeUnknown as error:
            output.note(faint(f"{error.message}; looking who is primary"))
        reached = _wait(machines, machine, 0 if head is None else head.epoch, started)
    _say(output, machine, reached.epoch, _ms_since(started))


def _nearest_to_primary(asked: Sequence[Asked], head: api.Cluster | None) -> str:
    """Return the URL to send to: the primary's own, where it is known; else any that answers, for a proxy to pass on.

    Raises:
        TkdbError: none answers.
    """
    answering = [each for each in asked if each.report is not None]
    if not answering:
        raise asked[0].error or Unavailable("no machine answered", hint="try again")
    primary = [each for each in answering if head and each.report and each.report.machine == head.primary]
    return (primary or answering)[0].url


def _wait(machines: Machines, machine: str, epoch: int, started: float) -> api.Cluster:
    """Return the head once ``machine`` is primary.

    Raises:
        Unavailable: it isn't after ``WAIT_MS``, or another machine is, of a later epoch.
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
        return f"after {seconds(WAIT_MS)} no machine that answers knows who is"
    if not head.primary:
        return f"after {seconds(WAIT_MS)} no machine is; when a lease has run out, the first that can takes over"
    return f"after {seconds(WAIT_MS)} {head.primary} in {head.region} still is, epoch {head.epoch}"


def _not_come(machine: str, state: str) -> TkdbError:
    return Unavailable(f"{machine} is not primary: {state}", hint=f"does {machine} run? See `tkdb status`")


def _say(output: Output, machine: str, epoch: int, took_ms: int) -> None:
    output.result(
        {"primary": machine, "epoch": epoch, "moved": True, "took_ms": took_ms},
        good(f"{machine} is primary, of epoch {epoch}, after {seconds(took_ms)}"),
    )


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
