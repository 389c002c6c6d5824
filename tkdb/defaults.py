"""The defaults that several packages share. Each is stated here, and nowhere else."""

from __future__ import annotations

from typing import Final

MAX_LIFETIME_S: Final = 90 * 86_400
"""The longest lifetime that an organization may set for its tokens: 90 days."""

MAX_REVOCATIONS: Final = 100_000
"""The largest number of single tokens that are revoked in one organization, and of subjects: about 30 MB of memory."""

BOUND_MS: Final = 5_000
"""The published bound: the largest age of the data that a machine serves, or that a client's cache uses."""

LEASE_MS: Final = 9_000
"""How long other machines wait for a silent primary."""
