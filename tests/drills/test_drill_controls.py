"""A drill that can't fail shows nothing: with a rule switched off in real machines, the drill that should fail does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.drilled import STORE_DOWN, drilled, missed


@pytest.mark.slow
def test_with_a_rule_switched_off_the_drill_that_should_fail_does(folder: Path) -> None:
    ((_, verdict),) = drilled(folder, [STORE_DOWN], "no freshness check")
    assert "blind_accepts" in missed(verdict)
