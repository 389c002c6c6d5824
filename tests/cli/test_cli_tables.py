"""Every table fits a terminal of 80 columns, whatever its values are, and no part of a value is lost."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.cli.test_cli_terminal import on_a_terminal
from tkdb.cli import lab, output, regions, status, survey_report
from tkdb.cli.output import Rows

HEADERS = {
    "status": status._HEADER,
    "regions": regions._HEADER,
    "lab status": lab._HEADER,
    "recover": survey_report._HEADER,
    "gc": ("PATH", "EPOCH", "SIZE", "NEWEST", "FATE"),
    "org list": ("NAME", "LIFETIME", "CREATED", "KEYS", "SIGNING"),
    "org create": ("KEY", "GEN", "STATE", "UNTIL"),
    "token inspect": ("#", "WRITTEN BY", "TAG", "MEANS"),
    "token explain": ("", "#", "TAG", "MEANS", "WHY NOT"),
    "drill list": ("DRILL", "WHAT HAPPENS"),
    "without a header": (),
}
LONG = ("a" * 64, "m-" + "1" * 62, "a value of several words, which is longer than a line of a terminal can be " * 2)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def shown(rows: Rows) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", output._rendered(rows, Terminal())).splitlines()


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("indent", [0, 2])
def test_a_table_with_long_values_fits_80_columns(name: str, indent: int) -> None:
    header = HEADERS[name]
    row = [LONG[index % len(LONG)] for index in range(len(header) or 3)]
    lines = shown(Rows([row, row], header=header, indent=indent))
    assert max(map(cell_len, lines)) <= 80
    if header:
        assert [line.strip() for line in lines].count("") == 1  # between the two rows
        for value in row:
            assert (
                squeezed(
                    "".join(re.sub(rf"^ *({'|'.join(filter(None, header))})  ", "", line) for line in lines)
                ).count(squeezed(value))
                >= 2
            )


def test_a_table_that_fits_has_one_line_for_each_row() -> None:
    assert shown(Rows([("iad", "m-1", "primary")], header=("REGION", "MACHINE", "ROLE"))) == [
        "REGION  MACHINE  ROLE",
        "iad     m-1      primary",
    ]


def test_without_the_blocks_the_cells_of_a_wide_table_are_torn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_natural_width", lambda rows: 0)
    kid = "0123456789abcdef" * 2
    rows = Rows([("epochs/" + kid, kid, kid)], header=("PATH", "KEY", "OTHER"))
    assert not any(kid in line for line in shown(rows))
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "80")
    assert sum(kid in line for line in shown(rows)) == 3


@given(st.lists(st.lists(st.text(max_size=200), min_size=3, max_size=3), max_size=4))
def test_any_table_fits_80_columns(rows: list[list[str]]) -> None:
    assert max((cell_len(line) for line in shown(Rows(rows, header=("ONE", "TWO", "THREE")))), default=0) <= 80


@pytest.mark.real_start
def test_a_real_table_fits_a_terminal_of_80_columns() -> None:
    for arguments in (("token", "inspect"), ("token", "explain", "--action", "w"), ("drill", "list")):
        lines = on_a_terminal(*arguments, COLUMNS="80", NO_COLOR="1").splitlines()
        table: list[Any] = [line for line in lines if not line.startswith("the ")]
        assert max(map(cell_len, table)) <= 80
