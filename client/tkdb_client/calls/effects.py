"""What a call is made of: it yields these, and whoever drives it does them (`tkdb_client.calls.runners`).

``Send`` is answered with its outcome, ``Join`` with whether it is over, ``Sleep`` and ``Aside`` with nothing.
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
class Aside:
    """Begin ``steps`` beside the call, and go on at once. Nobody hears of their result."""

    steps: Steps[Any]


@dataclass(frozen=True, slots=True)
class Join:
    """Wait until ``other``, which another call makes come about, is done; ``timeout_ms`` at most."""

    other: Future[Any]
    timeout_ms: int


Steps: TypeAlias = Generator[Send | Sleep | Aside | Join, Any, T]
"""What a call does until it has its result."""
