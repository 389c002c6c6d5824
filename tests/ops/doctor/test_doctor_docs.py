"""docs/doctor.md lists exactly the checks of the code, in the same order and with the same texts."""

from __future__ import annotations

import re
from pathlib import Path

from tkdb_ops.doctor.verdict import CHECKS

DOCS = Path(__file__).parents[3].joinpath("docs", "doctor.md").read_text()
ROWS = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \|$", DOCS, re.MULTILINE)


def test_the_table_lists_every_check_with_its_title_and_fix() -> None:
    assert [(name, title, fix) for name, title, _, fix in ROWS] == [(each.id, each.title, each.fix) for each in CHECKS]


def test_the_table_gives_a_reason_for_every_check() -> None:
    assert all(len(why) > 40 for _, _, why, _ in ROWS)


def test_the_example_names_only_existing_checks() -> None:
    listed = re.findall(r"^- .*?: ([a-z-]+(?:, (?:[a-z-]+|…))+)$", DOCS, re.MULTILINE)
    named = {name for line in listed for name in line.split(", ") if name != "…"}
    assert named
    assert named <= {check.id for check in CHECKS}
