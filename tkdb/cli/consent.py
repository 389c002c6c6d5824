"""The operator's consent to a command that permanently ends something: it shows the loss first, and asks.

``--yes`` is the consent. ``--dry-run`` only shows the loss. Without a terminal, nobody can answer a question, so the
command is refused without one of the two.

>>> ConsentOptions(dry_run=True, yes=True).is_given
False
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from tkdb.cli.output import Output, Part, UsageError, faint


@dataclass(frozen=True, slots=True)
class Loss:
    """The things that a command is about to end: as a JSON document, and as text."""

    document: dict[str, Any]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ConsentOptions:
    """The options of a command that ends something."""

    yes: Annotated[bool, typer.Option("--yes", help="Your consent, instead of the question.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the loss, and change nothing.")] = False

    @property
    def is_given(self) -> bool:
        """True if the options are the consent, so that nothing is asked."""
        return self.yes and not self.dry_run


def is_agreed(output: Output, consent: ConsentOptions, summary: str, look: Callable[[], Loss]) -> bool:
    """Return True if the operator agrees to the loss that ``look`` returns. With ``--dry-run``, print it as the result.

    Args:
        summary: the loss in a few words, for the error if nobody can answer.
        look: returns the whole loss. It isn't called if ``--yes`` is given, so that an emergency needs no other call.

    Raises:
        UsageError: nobody can be asked, because there is no terminal or JSON is requested.
        Exit: the operator doesn't agree. The exit code is 1.
    """
    if consent.is_given:
        return True
    if consent.dry_run:
        loss = look()
        output.result({"dry_run": True, **loss.document}, *loss.parts)
        output.note(faint("nothing was changed"))
        return False
    if output.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(summary, hint="look at the loss with --dry-run; to go ahead, add --yes")
    output.note(*look().parts)
    try:
        agreed = typer.confirm("Go ahead?", err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        output.note("nothing was changed")
        raise typer.Exit(1)
    return True
