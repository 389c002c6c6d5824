"""What goes wrong for a while is in the log when it begins, changes, lasts and ends, and not at each try."""

from __future__ import annotations

import logging

import pytest

from tkdb_replication.node.incident import AGAIN_MS, Incident


class Clock:
    now_ms = 1_000

    def monotonic_ms(self) -> int:
        return self.now_ms


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, object]]]:
    found = [(each.levelname, each.getMessage(), each.fields) for each in caplog.records]  # type: ignore[attr-defined]
    caplog.clear()
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("tkdb"), "propagate", True)
    caplog.set_level(logging.DEBUG, "tkdb")
    return caplog


def test_a_store_that_is_away_for_long_fills_no_log(log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    unread = Incident("head unread", "head read again", monotonic_ms=clock.monotonic_ms)
    for _ in range(4 * 60):
        unread.seen("away")
        clock.now_ms += 250
    assert [fields["for_ms"] for _, _, fields in said(log)] == [*range(0, 60_000, AGAIN_MS)]
    unread.over()
    assert said(log) == [("INFO", "head read again", {"after_ms": 60_000})]
    assert unread.why == ""


def test_another_reason_is_said_at_once_and_a_second_time_is_a_new_one(log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    unread = Incident("head unread", "head read again", monotonic_ms=clock.monotonic_ms)
    unread.over()
    unread.seen("away")
    clock.now_ms += 5
    unread.seen("refused")
    assert unread.why == "refused"
    unread.over()
    clock.now_ms += 5
    unread.seen("away")
    warned = [("WARNING", "head unread", {"why": why, "for_ms": ms}) for why, ms in (("away", 0), ("refused", 5))]
    over = ("INFO", "head read again", {"after_ms": 5})
    assert said(log) == [*warned, over, warned[0]]
