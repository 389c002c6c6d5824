"""docs/drills.md describes every drill and objective, its limits file is valid, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.processes import quick
from tkdb_ops.drills.catalogue import DRILLS, NAMES
from tkdb_ops.drills.drill import Drill
from tkdb_ops.drills.objectives import ALWAYS, Objectives, read

DOCS = Path(__file__).parents[3].joinpath("docs", "drills.md").read_text()


def row(name: str) -> str:
    found = re.search(rf"^\| `{name}` \|.*$", DOCS, re.MULTILINE)
    assert found is not None, name
    return found[0]


@pytest.mark.parametrize("drill", DRILLS, ids=NAMES)
def test_every_drill_is_described_with_its_steps_and_its_own_limits(drill: Drill) -> None:
    described = row(drill.name)
    assert drill.title in described
    assert drill.shows in described
    assert all(step.text in described for step in (*drill.fault, *drill.mend))
    assert all(f"`{name}` {limit:,}" in described for name, limit in drill.limits.items())


def test_only_existing_drills_are_described() -> None:
    table = DOCS.partition("## The drills")[2].partition("## On Fly")[0]
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == NAMES


@pytest.mark.parametrize("name", Objectives.__struct_fields__)
def test_every_objective_is_described_with_its_limit(name: str) -> None:
    _, _, limit, _, _ = (cell.strip() for cell in row(name).split("|"))
    assert limit == ("always 0" if name in ALWAYS else f"{getattr(Objectives(), name):,}")


def test_the_shown_file_of_limits_is_valid() -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    assert read(shown, NAMES).objectives("primary-killed", {}).writes_back_ms == 12_000


def test_the_shown_commands_exist() -> None:
    blocks = "".join(re.findall(r"^```console\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))
    commands = [line.removeprefix("$ tkdb ").split() for line in blocks.splitlines()]
    assert len(commands) >= 4
    for words in commands:
        options = [word for word in words if word.startswith("--")]
        shown = quick(*words[:2], "--help").out
        assert all(option in shown for option in options), words
        if words[1] == "list":
            assert quick(*words).code == 0
