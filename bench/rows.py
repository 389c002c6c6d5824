"""The rows that every bench measures, printed as a table for people or as JSON for programs.

>>> emit([Row("verify", 5, "tkdb", 12.5, "us"), Row("verify", 5, "pymacaroons", 71.0, "us")], "Verify", as_json=False)
Verify
what    n  who          value  unit
verify  5  tkdb          12.5  us
verify  5  pymacaroons   71.0  us
"""

from __future__ import annotations

import argparse

import msgspec


class Row(msgspec.Struct):
    """One figure: the work ``what``, its size or form ``n``, the contender ``who``, and the measured value."""

    what: str
    n: int | str
    who: str
    value: float
    unit: str


def arguments(title: str) -> argparse.ArgumentParser:
    """Return a parser with the option ``--json``. Each bench adds its other options."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    return parser


def emit(rows: list[Row], title: str, as_json: bool) -> None:
    """Print ``rows``: a JSON list, or the title and a table."""
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    header = ("what", "n", "who", "value", "unit")
    table = [header, *((row.what, str(row.n), row.who, _number(row.value), row.unit) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    print(title)
    for line in table:
        pad = (
            text.rjust(width) if name == "value" else text.ljust(width)
            for text, width, name in zip(line, widths, header, strict=True)
        )
        print("  ".join(pad).rstrip())


def _number(value: float) -> str:
    """Return ``value`` with at least three significant digits, and no more decimals than these need."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{decimals}f}"
