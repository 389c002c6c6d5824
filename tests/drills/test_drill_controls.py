"""A drill that can't fail shows nothing: with a rule switched off in real machines, the drill that should fail does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.drills.drilled import STORE_DOWN, drilled, missed
from tkdb_replication.drills.catalogue import find
from tkdb_replication.drills.drill import Drill, wait

PRIMARY_HUNG = find("primary-hung")
AWAKE_AGAIN = msgspec.structs.replace(PRIMARY_HUNG, mend=(*PRIMARY_HUNG.mend, wait(5_000)))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("control", "drill", "objective"),
    [
        ("no fence", AWAKE_AGAIN, "lost_writes"),
        ("no freshness check", STORE_DOWN, "blind_accepts"),
    ],
)
def test_with_a_rule_switched_off_the_drill_that_should_fail_does(
    folder: Path, control: str, drill: Drill, objective: str
) -> None:
    ((_, verdict),) = drilled(folder, [drill], control)
    assert objective in missed(verdict)
