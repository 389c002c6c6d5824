"""The client that commands talk through."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tkdb.errors import ConfigurationError

if TYPE_CHECKING:
    from tkdb.macaroon.access import Policy
    from tkdb_client import Client

TIMEOUT_MS: Final = 5_000
"""How long a call may take, its retries included: somebody sits and waits."""


def connect(
    policy: Policy | None = None, *, url: str | Sequence[str] | None = None, timeout_ms: int = TIMEOUT_MS
) -> Client:
    """Return a client of the authority that ``TKDB_AUTHORITY`` names, at ``url`` or at ``TKDB_URL``: one or several.

    Raises:
        ConfigurationError: one is missing or can't be used.
    """
    for variable in ("TKDB_URL", "TKDB_AUTHORITY"):
        if not os.environ.get(variable) and not (url and variable == "TKDB_URL"):
            raise ConfigurationError(
                f"{variable} is not set", hint="export what `tkdb dev` prints, or ask the authority's operator"
            )
    from tkdb_client import Client  # only for commands that ask the authority: it takes a while to import

    return Client(url, policy=policy, timeout_ms=timeout_ms, cache_bytes=0)
