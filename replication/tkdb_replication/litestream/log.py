r"""Litestream's output, as lines of tkdb's structured log. Pure.

>>> parse_line(b'{"time":"...","level":"WARN","msg":"sync failed","db":"tkdb.db","level":2}', credentials=NONE)
Line(level=30, fields={'said': 'sync failed', 'db': 'tkdb.db'})
>>> parse_line(b"panic: out of memory\n", credentials=NONE)
Line(level=30, fields={'said': 'panic: out of memory'})
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Final

from tkdb_replication.bucket.credentials import Credentials

NONE: Final = Credentials("", "")
MAX_TEXT: Final = 300
MAX_FIELDS: Final = 12

# Its usual lines don't matter while nothing is wrong.
_LEVELS: Final = {"TRACE": logging.DEBUG, "DEBUG": logging.DEBUG, "INFO": logging.DEBUG, "ERROR": logging.ERROR}
_OURS: Final = {"time", "level", "event", "msg", "said"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its level, as in ``logging``, and its fields."""

    level: int
    fields: dict[str, str | int | float]


def parse_line(line: bytes, *, credentials: Credentials) -> Line:
    """Return the content of a line. Output that isn't a line of its log, such as a panic, is a warning.

    Args:
        line: the line as it came: any bytes.
        credentials: removed from the line.
    """
    text = line.decode(errors="replace").strip()
    try:
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs, parse_constant=str)
    except (ValueError, RecursionError):
        pairs = None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return Line(logging.WARNING, {"said": _shown(text, credentials)})
    # Litestream writes some names twice ("level" is first the line's, then a compaction's). The first one counts.
    values = dict(reversed(pairs))
    fields: dict[str, str | int | float] = {"said": _shown(str(values.get("msg", "")), credentials)}
    for name, value in pairs[:MAX_FIELDS]:
        if name not in _OURS and isinstance(value, str | int | float):
            shown = _shown(name, credentials)
            fields.setdefault(shown, _shown(value, credentials) if isinstance(value, str) else value)
    return Line(_LEVELS.get(str(values.get("level")), logging.WARNING), fields)


def _shown(text: str, credentials: Credentials) -> str:
    return credentials.redact(text)[:MAX_TEXT]
