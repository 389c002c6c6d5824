"""Several drills share a target while it is intact, and a drill that can't run doesn't end the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from tests.ops.drills.records import changed, good
from tkdb import errors
from tkdb_ops.drills.catalogue import DRILLS
from tkdb_ops.drills.drill import Drill
from tkdb_ops.drills.objectives import Limits, Objectives
from tkdb_ops.drills.report import Result
from tkdb_ops.drills.session import FailedRun, Session
from tkdb_ops.drills.verdict import judge

FIRST, SECOND, THIRD = DRILLS[:3]


class ScriptedSession(Session):
    """A session whose drills have scripted outcomes."""

    def __init__(self, *outcomes: errors.TkdbError | None, opens: errors.TkdbError | None = None) -> None:
        super().__init__(self._open, Limits(), seed=1, tell=lambda event: None)
        self.outcomes = list(outcomes)
        self.opens = opens
        self.history: list[str] = []

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Any]:
        if self.opens is not None:
            raise self.opens
        self.history.append("open")
        try:
            yield object()
        finally:
            self.history.append("close")

    async def _one(self, drill: Drill, target: Any) -> Result:
        self.history.append(drill.name)
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        record = changed(good(), drill=drill.name)
        return Result(drill, record, judge(record, Objectives()))


def run_session(session: Session, *drills: Drill, limit: int = 10) -> list[Result | FailedRun]:
    async def run() -> list[Result | FailedRun]:
        found: list[Result | FailedRun] = []
        async with aclosing(session.run(drills)) as results:
            async for each in results:
                found.append(each)
                if len(found) == limit:
                    break
        return found

    return asyncio.run(run())


def test_an_intact_target_is_kept() -> None:
    session = ScriptedSession(None, None)
    assert all(isinstance(each, Result) for each in run_session(session, FIRST, SECOND))
    assert session.history == ["open", FIRST.name, SECOND.name, "close"]


def test_after_a_failed_run_the_next_drill_has_a_new_target() -> None:
    session = ScriptedSession(errors.Unavailable("the lab is not whole"), None)
    first, second = run_session(session, FIRST, SECOND)
    assert isinstance(first, FailedRun)
    assert (first.drill, first.message) == (FIRST, "the lab is not whole")
    assert isinstance(second, Result)
    assert session.history == ["open", FIRST.name, "close", "open", SECOND.name, "close"]


def test_a_drill_that_the_target_does_not_support_keeps_the_target() -> None:
    session = ScriptedSession(errors.ConfigurationError("it can't be isolated"), None)
    assert [isinstance(each, FailedRun) for each in run_session(session, FIRST, SECOND)] == [True, False]
    assert session.history == ["open", FIRST.name, SECOND.name, "close"]


@pytest.mark.parametrize(("error", "tried"), [(errors.ConfigurationError("no Envoy"), 1), (errors.Unavailable("…"), 3)])
def test_without_a_target_no_drill_runs(error: errors.TkdbError, tried: int) -> None:
    session = ScriptedSession(opens=error)
    assert len(run_session(session, FIRST, SECOND, THIRD)) == tried
    assert session.history == []


def test_a_session_that_ends_early_closes_its_target() -> None:
    session = ScriptedSession(None, None)
    assert len(run_session(session, FIRST, SECOND, limit=1)) == 1
    assert session.history == ["open", FIRST.name, "close"]
