"""Logs: one line for each event, and only the class and place of an exception."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tkdb import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    yield
    logs.configure("error", io.StringIO())


def test_a_program_gets_one_json_object_per_line() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    logs.event(logging.INFO, "request", method="mint", outcome="line\nbreak")
    [line] = stream.getvalue().splitlines()
    record = json.loads(line)
    assert list(record) == ["time", "level", "event", "method", "outcome"]
    assert record["time"].endswith("Z")


def test_a_terminal_gets_a_short_line() -> None:
    stream = Terminal()
    logs.configure("info", stream)
    logs.event(logging.INFO, "request", method="mint", ms=0.4)
    assert stream.getvalue()[9:] == "info request method=mint ms=0.4\n"


@pytest.mark.parametrize(("level", "shown"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 1)])
def test_the_level_decides_what_is_shown(level: str, shown: int) -> None:
    stream = io.StringIO()
    logs.configure(level, stream)
    for number in (logging.DEBUG, logging.INFO, logging.ERROR):
        logs.event(number, "event")
    assert len(stream.getvalue().splitlines()) == shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
@pytest.mark.parametrize("logger", ["tkdb.server.hypercorn", "asyncio", "tkdb.database"])
def test_no_logger_writes_the_message_of_an_exception(stream: io.StringIO, logger: str) -> None:
    logs.configure("info", stream)
    try:
        raise ValueError("planted-secret")
    except ValueError:
        logging.getLogger(logger).exception("it failed")
    assert "planted-secret" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert "test_logs.py" in stream.getvalue()


def test_info_messages_of_hypercorn_are_not_logged() -> None:
    stream = io.StringIO()
    logs.configure("debug", stream)
    logs.HYPERCORN.info("Running on http://127.0.0.1:8080 (CTRL + C to quit)")
    assert stream.getvalue() == ""
