"""Several drills share a target for as long as it is whole, and one that can't be run doesn't end the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from tests.ops.drills.written import changed, good
from tkdb import errors
from tkdb_ops.drills.catalogue import DRILLS
from tkdb_ops.drills.drill import Drill
from tkdb_ops.drills.objectives import Limits, Objectives
from tkdb_ops.drills.report import Result
from tkdb_ops.drills.session import FailedRun, Session
from tkdb_ops.drills.verdict import judge

FIRST, SECOND, THIRD = DRILLS[:3]


class Played(Session):
    """A session whose drills end as they are told to."""

    def __init__(self, *ends: errors.TkdbError | None, opens: errors.TkdbError | None = None) -> None:
        super().__init__(self._opened, Limits(), seed=1, tell=lambda event: None)
        self.ends = list(ends)
        self.opens = opens
        self.history: list[str] = []

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        if self.opens is not None:
            raise self.opens
        self.history.append("open")
        try:
            yield object()
        finally:
            self.history.append("close")

    async def _one(self, drill: Drill, target: Any) -> Result:
        self.history.append(drill.name)
        end = self.ends.pop(0)
        if end is not None:
            raise end
        record = changed(good(), drill=drill.name)
        return Result(drill, record, judge(record, Objectives()))


def ended(session: Session, *drills: Drill, most: int = 10) -> list[Result | FailedRun]:
    async def run() -> list[Result | FailedRun]:
        found: list[Result | FailedRun] = []
        async with aclosing(session.run(drills)) as results:
            async for each in results:
                found.append(each)
                if len(found) == most:
                    break
        return found

    return asyncio.run(run())


def test_a_target_that_stays_whole_is_kept() -> None:
    session = Played(None, None)
    assert all(isinstance(each, Result) for each in ended(session, FIRST, SECOND))
    assert session.history == ["open", FIRST.name, SECOND.name, "close"]


def test_after_one_that_could_not_be_run_the_next_has_a_new_target() -> None:
    session = Played(errors.Unavailable("the lab is not whole"), None)
    first, second = ended(session, FIRST, SECOND)
    assert isinstance(first, FailedRun)
    assert (first.drill, first.message) == (FIRST, "the lab is not whole")
    assert isinstance(second, Result)
    assert session.history == ["open", FIRST.name, "close", "open", SECOND.name, "close"]


def test_a_drill_that_the_target_can_not_take_leaves_it_to_the_next() -> None:
    session = Played(errors.ConfigurationError("it can't be isolated"), None)
    assert [isinstance(each, FailedRun) for each in ended(session, FIRST, SECOND)] == [True, False]
    assert session.history == ["open", FIRST.name, SECOND.name, "close"]


@pytest.mark.parametrize(("error", "tried"), [(errors.ConfigurationError("no Envoy"), 1), (errors.Unavailable("…"), 3)])
def test_without_a_target_nothing_is_run(error: errors.TkdbError, tried: int) -> None:
    session = Played(opens=error)
    assert len(ended(session, FIRST, SECOND, THIRD)) == tried
    assert session.history == []


def test_who_ends_early_leaves_the_target_closed() -> None:
    session = Played(None, None)
    assert len(ended(session, FIRST, SECOND, most=1)) == 1
    assert session.history == ["open", FIRST.name, "close"]
