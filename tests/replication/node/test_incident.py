"""An incident is logged when it begins, changes and ends, and at intervals, but not at each attempt."""

from __future__ import annotations

import logging

import pytest

from tkdb_replication.node.incident import AGAIN_MS, Incident


class Clock:
    now_ms = 1_000

    def monotonic_ms(self) -> int:
        return self.now_ms


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, object]]]:
    found = [(each.levelname, each.getMessage(), each.fields) for each in caplog.records]  # type: ignore[attr-defined]
    caplog.clear()
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("tkdb"), "propagate", True)
    caplog.set_level(logging.DEBUG, "tkdb")
    return caplog


def test_a_long_incident_is_logged_only_at_intervals(log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    unread = Incident("head unread", "head read again", monotonic_ms=clock.monotonic_ms)
    for _ in range(4 * 60):
        unread.seen("away")
        clock.now_ms += 250
    assert [fields["for_ms"] for _, _, fields in logged(log)] == [*range(0, 60_000, AGAIN_MS)]
    unread.over()
    assert logged(log) == [("INFO", "head read again", {"after_ms": 60_000})]
    assert unread.why == ""


def test_a_new_reason_is_logged_at_once_and_a_second_incident_starts_at_zero(log: pytest.LogCaptureFixture) -> None:
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
    assert logged(log) == [*warned, over, warned[0]]
