r"""What Litestream says, as lines of our structured log. Pure.

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

from tkdb_replication.bucket.settings import Credentials

NONE: Final = Credentials("", "")
MAX_TEXT: Final = 300
MAX_FIELDS: Final = 12

# What it does all the time is of no interest until something is wrong.
_LEVELS: Final = {"TRACE": logging.DEBUG, "DEBUG": logging.DEBUG, "INFO": logging.DEBUG, "ERROR": logging.ERROR}
_OURS: Final = {"time", "level", "event", "msg", "said"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its level, as in ``logging``, and what it says."""

    level: int
    fields: dict[str, str | int | float]


def parse_line(line: bytes, *, credentials: Credentials) -> Line:
    """Return what a line says. What isn't a line of its log (a panic, say) is a warning.

    Args:
        line: as it came; any bytes at all.
        credentials: what must not be shown.
    """
    text = line.decode(errors="replace").strip()
    try:
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs, parse_constant=str)
    except (ValueError, RecursionError):
        pairs = None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return Line(logging.WARNING, {"said": _shown(text, credentials)})
    # It writes some names twice ("level" is the line's, then a compaction's): the first one counts.
    values = dict(reversed(pairs))
    fields: dict[str, str | int | float] = {"said": _shown(str(values.get("msg", "")), credentials)}
    for name, value in pairs[:MAX_FIELDS]:
        if name not in _OURS and isinstance(value, str | int | float):
            shown = _shown(name, credentials)
            fields.setdefault(shown, _shown(value, credentials) if isinstance(value, str) else value)
    return Line(_LEVELS.get(str(values.get("level")), logging.WARNING), fields)


def _shown(text: str, credentials: Credentials) -> str:
    return credentials.redact(text)[:MAX_TEXT]
