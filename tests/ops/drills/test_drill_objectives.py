"""``drills.toml`` changes limits, and a mistake in it is an error."""

from __future__ import annotations

import pytest

from tkdb.errors import ConfigurationError
from tkdb_ops.drills.catalogue import DRILLS, NAMES
from tkdb_ops.drills.objectives import ALWAYS, Limits, Objectives, read


def test_without_a_file_the_default_objectives_apply() -> None:
    assert Limits().objectives("primary-killed", {}) == Objectives()
    assert (Objectives().failed_reads, Objectives().longest_read_ms, Objectives().writes_back_ms) == (0, 2_000, 15_000)


def test_a_file_limit_for_a_drill_precedes_its_own_limit_which_precedes_the_general_one() -> None:
    limits = read(
        "[objectives]\nwrites_back_ms = 9\nlongest_read_ms = 8\n[drills.store-down]\nwrites_back_ms = 7", NAMES
    )
    assert limits.objectives("primary-killed", {}).writes_back_ms == 9
    assert limits.objectives("disk-full", {"writes_back_ms": 20_000}).writes_back_ms == 20_000
    assert limits.objectives("store-down", {"writes_back_ms": 30_000}).writes_back_ms == 7
    assert limits.objectives("store-down", {}).longest_read_ms == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("writes_back_ms = 9", r"it has \[writes_back_ms\]"),
        ("[objectives]\nwrites_back = 9", "writes_back"),
        ("[objectives]\nwrites_back_ms = -1", ">= 0"),
        ("[objectives]\nwrites_back_ms = 1.5", "int"),
        ("[objectives]\nwrites_back_ms = true", "int"),
        ("[drills.nothing]\nwrites_back_ms = 1", "no drill 'nothing'"),
        ("drills = 3", "drills isn't a table"),
        ("objectives = 3", "objectives isn't a table"),
        ("drills.store-down = 3", "drills.store-down isn't a table"),
        ("[[objectives", "isn't TOML"),
        *((f"[objectives]\n{name} = 0", f"{name} is always 0") for name in ALWAYS),
        ("[drills.store-down]\nlost_writes = 5", "lost_writes is always 0"),
    ],
)
def test_an_invalid_file_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(text, NAMES)


def test_no_drill_loosens_an_objective_that_always_holds() -> None:
    for drill in DRILLS:
        objectives = Limits().objectives(drill.name, drill.limits)
        assert [getattr(objectives, name) for name in ALWAYS] == [0] * len(ALWAYS), drill.name
