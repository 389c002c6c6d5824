"""The effects of a call: a call yields them, and a runner carries them out (`tkdb_client.calls.runners`).

``Send`` returns its outcome, ``Join`` returns whether the other call is over, and ``Sleep`` and ``Background`` return
nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from tkdb_client.calls.transport import Send

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing for ``wait_ms``."""

    wait_ms: int


@dataclass(frozen=True, slots=True)
class Background:
    """Begin ``steps`` in the background, and continue at once. Their result is dropped."""

    steps: Steps[Any]


@dataclass(frozen=True, slots=True)
class Join:
    """Wait until ``other``, the future of another call, is done, at most ``timeout_ms``."""

    other: Future[Any]
    timeout_ms: int


Steps: TypeAlias = Generator[Send | Sleep | Background | Join, Any, T]
"""The effects of a call until it has its result."""
