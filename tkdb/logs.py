"""Structured logs on stderr: JSON lines for programs, short lines for a terminal.

A request has one line at most: its method, its outcome, its duration, the first digits of its id and the signer's name.
No other data from a caller is ever logged: no token, body, key or header. Of an exception, only its class and the place
where it was raised are logged, because its message may quote the data that caused it.

>>> record = logging.makeLogRecord({"msg": "request", "levelno": 20, "levelname": "INFO", "created": 0, "msecs": 0,
...                                 "fields": {"method": "mint", "outcome": "ok", "ms": 0.4}})
>>> JsonLines().format(record)
'{"time":"1970-01-01T00:00:00.000Z","level":"info","event":"request","method":"mint","outcome":"ok","ms":0.4}'
>>> ShortLines().format(record)
'00:00:00 info request method=mint outcome=ok ms=0.4'
"""

from __future__ import annotations

import logging
import time
import traceback
from typing import Any, Final, TextIO

import msgspec

LEVELS: Final = ("debug", "info", "warning", "error")
LOGGER: Final = logging.getLogger("tkdb.server")
HYPERCORN: Final = logging.getLogger("tkdb.server.hypercorn")


def event(level: int, name: str, **fields: Any) -> None:
    """Log one event with its fields. The caller must make sure that no field contains a secret."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, name, extra={"fields": fields})


def failure(name: str, error: BaseException, **fields: Any) -> None:
    """Log an unexpected error, without its message."""
    LOGGER.error(name, extra={"fields": {**fields, **describe(error)}})


def describe(error: BaseException) -> dict[str, str]:
    """Return as fields an exception's class and the place where it was raised, but never its message."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-4:]]
    return {"error": type(error).__name__, "raised": " > ".join(places)}


def configure(level: str, stream: TextIO) -> None:
    """Send the logs of the service, Hypercorn and asyncio to ``stream``, at ``level`` (one of ``LEVELS``) and above."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ShortLines() if stream.isatty() else JsonLines())
    for name in ("tkdb", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    # At info, Hypercorn only repeats events that the service logs. At error, it logs whole exceptions, which the
    # formatters shorten.
    HYPERCORN.setLevel(max(logging.WARNING, logging.getLogger("tkdb").level))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    if record.exc_info and record.exc_info[1] is not None:
        return {**fields, **describe(record.exc_info[1])}
    return fields


class JsonLines(logging.Formatter):
    """The format for programs, one JSON object for each line: time, level, event, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        return msgspec.json.encode(line).decode()


class ShortLines(logging.Formatter):
    """The format for a person's terminal: time of day (UTC), level, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.gmtime(record.created))
        pairs = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return f"{stamp} {record.levelname.lower()} {record.getMessage()}{pairs}"
