"""docs/doctor.md is true: it lists every check as the code has it, in its order, and none besides."""

from __future__ import annotations

import re
from pathlib import Path

from tkdb_ops.doctor.verdict import CHECKS

DOCS = Path(__file__).parents[3].joinpath("docs", "doctor.md").read_text()
ROWS = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \|$", DOCS, re.MULTILINE)


def test_every_check_is_listed_with_what_is_expected_and_what_to_do() -> None:
    assert [(name, title, fix) for name, title, _, fix in ROWS] == [(each.id, each.title, each.fix) for each in CHECKS]


def test_why_each_is_made_is_said() -> None:
    assert all(len(why) > 40 for _, _, why, _ in ROWS)


def test_what_is_named_in_the_example_are_checks() -> None:
    listed = re.findall(r"^- .*?: ([a-z-]+(?:, (?:[a-z-]+|…))+)$", DOCS, re.MULTILINE)
    named = {name for line in listed for name in line.split(", ") if name != "…"}
    assert named
    assert named <= {check.id for check in CHECKS}
