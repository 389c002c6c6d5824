"""The output of a command: data on stdout as tables or JSON, messages and errors on stderr, and the exit code.

Any text may come from a token that an attacker made, so control characters for the terminal are printed escaped.

>>> clean("acme\\x1b[2J")
'acme\\\\x1b[2J'
>>> exit_code(errors.RevokedToken("revoked")), exit_code(errors.Overloaded("busy"))
(1, 3)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec

from tkdb import errors

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH: Final = 100_000
_GAP: Final = 2
"""The number of spaces between two columns."""

_EXIT_CODES: Final[tuple[tuple[type[errors.TkdbError], int], ...]] = (
    (errors.Denied, 1),
    (errors.Refused, 1),
    (errors.BrokenJournal, 1),
    (errors.ForeignDatabase, 2),
    (errors.WrongSealKey, 2),
    (errors.ConfigurationError, 2),
    (errors.InvalidCaveat, 2),
    (errors.Unavailable, 3),
    (errors.StoreError, 3),
    (errors.ChannelError, 3),
)
"""The first class that matches decides. Any other error is a wrong command line: 2."""


class UsageError(errors.TkdbError):
    """The command line can't be understood."""

    code = "usage"


def exit_code(error: errors.TkdbError) -> int:
    """Return the exit code for ``error``: 1 denied or invalid, 2 usage, 3 unavailable."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 2)


@dataclass(frozen=True, slots=True)
class Marked:
    """A text in a style of rich, such as ``bold red``; plain if there is no colour."""

    text: str
    style: str


Cell = str | Marked


@dataclass(frozen=True, slots=True)
class Rows:
    """A table; ``header`` may be empty."""

    rows: Iterable[Sequence[Cell]]
    header: Sequence[str] = ()
    indent: int = 0


Part = Cell | Rows


def good(text: str) -> Marked:
    """Return ``text`` in the style of a good result."""
    return Marked(text, "green")


def bad(text: str) -> Marked:
    """Return ``text`` in the style of a bad result."""
    return Marked(text, "bold red")


def faint(text: str) -> Marked:
    """Return ``text`` in the style of a less important text."""
    return Marked(text, "dim")


class Output:
    """The output of one command. With ``json``, exactly one document goes to stdout."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def result(self, document: Any, *parts: Part) -> None:
        """Print a result: ``document`` if JSON is requested, else ``parts``, each on a new line."""
        if self.json:
            _write(sys.stdout, msgspec.json.encode(document).decode())
            return
        for part in parts:
            _write(sys.stdout, _rendered(part, sys.stdout))

    def note(self, *parts: Part) -> None:
        """Print messages on stderr."""
        for part in parts:
            _write(sys.stderr, _rendered(part, sys.stderr))

    @property
    def is_live(self) -> bool:
        """True if ``live`` shows anything."""
        return not self.json and sys.stdout.isatty()

    @contextmanager
    def live(self) -> Iterator[Callable[[Rows], None] | None]:
        """Yield a function that shows a table in place of the one before.

        It yields None if stdout isn't a terminal, or if JSON is requested.
        """
        if not self.is_live:
            yield None
            return
        from rich.live import Live

        with Live(console=_console(sys.stdout), auto_refresh=False) as shown:
            yield lambda rows: shown.update(_grid(rows, shown.console.width), refresh=True)

    def fail(self, error: errors.TkdbError) -> int:
        """Print an error, and return its exit code."""
        if self.json:
            fields = {"code": error.code, "message": clean(error.message), "hint": clean(error.hint)}
            if isinstance(error, errors.OutcomeUnknown) and error.request_id is not None:
                fields["request_id"] = error.request_id.hex()
            _write(sys.stdout, msgspec.json.encode({"error": fields}).decode())
        _write(sys.stderr, _rendered(bad("error:"), sys.stderr) + " " + clean(error.message))
        if error.hint:
            _write(sys.stderr, _rendered(faint("try:"), sys.stderr) + " " + clean(error.hint))
        return exit_code(error)


def clean(text: str) -> str:
    """Return ``text`` with every character escaped that isn't printable, except line ends."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def _write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


def _rendered(part: Part, stream: TextIO) -> str:
    if isinstance(part, str):
        return clean(part)
    if isinstance(part, Marked) and not stream.isatty():
        return clean(part.text)
    from rich.text import Text  # imported only for styles and tables, because the import is slow

    console = _console(stream)
    with console.capture() as capture:
        console.print(
            Text(clean(part.text), style=part.style) if isinstance(part, Marked) else _grid(part, console.width)
        )
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(
        file=stream,
        width=None if stream.isatty() else _PIPED_WIDTH,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
    )


def _grid(part: Rows, width: int) -> Any:
    """Return a table. If it has a header and is wider than ``width``, each row becomes a block of lines."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    rows: list[Sequence[Cell]] = [[Marked(title, "bold") for title in part.header], *part.rows]
    if part.header and _natural_width(rows) + part.indent > width:
        rows = list(_stacked(rows))
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for row in rows:
        cells = [Text(clean(cell)) if isinstance(cell, str) else Text(clean(cell.text), cell.style) for cell in row]
        if cells:
            grid.add_row(*cells)
    return Padding(grid, (0, 0, 0, part.indent), expand=False)


def _natural_width(rows: Sequence[Sequence[Cell]]) -> int:
    from rich.cells import cell_len

    columns = zip_longest(*rows, fillvalue="")
    widths = [
        max(cell_len(clean(cell if isinstance(cell, str) else cell.text)) for cell in column) for column in columns
    ]
    return sum(widths) + _GAP * (len(widths) - 1)


def _stacked(rows: Sequence[Sequence[Cell]]) -> Iterator[Sequence[Cell]]:
    """Yield a line for each cell that isn't empty, with its title, and an empty line between two rows."""
    header, *rest = rows
    for index, row in enumerate(rest):
        if index:
            yield ("", "")
        yield from (
            (title, cell)
            for title, cell in zip(header, row, strict=False)
            if (cell if isinstance(cell, str) else cell.text)
        )
