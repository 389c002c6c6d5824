"""The client through which commands call the authority."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tkdb.errors import ConfigurationError

if TYPE_CHECKING:
    from tkdb.macaroon.access import Policy
    from tkdb_client import Client

TIMEOUT_MS: Final = 5_000
"""The time limit of a call, including its retries. It is short because a person waits for the result."""


def connect(
    policy: Policy | None = None, *, url: str | Sequence[str] | None = None, timeout_ms: int = TIMEOUT_MS
) -> Client:
    """Return a client of the authority that ``TKDB_AUTHORITY`` names, at the URL or URLs in ``url`` or ``TKDB_URL``.

    Raises:
        ConfigurationError: a variable is missing or can't be used.
    """
    for variable in ("TKDB_URL", "TKDB_AUTHORITY"):
        if not os.environ.get(variable) and not (url and variable == "TKDB_URL"):
            raise ConfigurationError(
                f"{variable} is not set",
                hint="export the variables that `tkdb dev` prints, or ask the authority's operator",
            )
    from tkdb_client import Client  # imported only by commands that call the authority, because the import is slow

    return Client(url, policy=policy, timeout_ms=timeout_ms, cache_bytes=0)
