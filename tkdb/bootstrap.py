"""From settings to an open authority, with the clocks and the randomness of this system.

The server and the replicated authority both begin here. It is the one place where the authority gets its clock.
"""

from __future__ import annotations

import os
import time

from tkdb.authority.clock import Clock
from tkdb.authority.methods import Profile
from tkdb.authority.service import Authority
from tkdb.settings import Settings


async def open_authority(settings: Settings) -> Authority:
    """Open the authority that ``settings`` describe.

    Raises:
        ConfigurationError: the database belongs to another authority.
        StoreError, Unavailable: the database can't be used.
    """
    return await Authority.open(settings.database, profile_of(settings), clock=system_clock(), random=os.urandom)


def profile_of(settings: Settings) -> Profile:
    """Return the authority's profile: its name, its secrets and its limits."""
    return Profile(
        settings.name,
        settings.seal_keys,
        max_lifetime_s=settings.max_lifetime_s,
        max_revocations=settings.max_revocations,
        region=settings.region,
        machine=settings.machine,
        attested=settings.fly_src_required,
    )


def system_clock() -> Clock:
    """Return this machine's clocks."""
    return Clock(lambda: time.time_ns() // 1_000_000, lambda: time.monotonic_ns() // 1_000_000)
