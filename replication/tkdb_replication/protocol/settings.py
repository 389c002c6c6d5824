"""A machine's place among the others, and the times that its rules run by."""

from __future__ import annotations

from typing import Final

import msgspec

from tkdb import defaults
from tkdb_replication.protocol.head import RECENT_BYTES_MAX, RECENT_ENTRIES_MAX

NEVER_MS: Final = 2**62
"""Later than any clock."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules of the head need to be told. Times are in milliseconds.

    Attributes:
        machine: this machine's name, unique in the cluster.
        region: where it stands.
        rank: its place in the configured order of who is primary rather than others, from 0.
        automatic: whether it takes over when a lease runs out. Without, only a primary that hands over,
            ``tkdb promote`` or a restart of the primary itself makes a primary.
        bound_ms: the oldest that what this machine serves may be: its share of the published bound.
        lease_ms: how long others wait for this machine once it is primary and silent; it swaps every third of it.
        margin_ms: how much longer than a lease one waits.
        rank_ms: how much longer for each place in the order.
        poll_ms: how often the head is read while callers ask.
        idle_poll_ms: how often while none does, so that a lease that runs out is seen.
        in_use_ms: for how long after a caller asked.
        answer_ms: how long an answer of the object store is waited for.
        sync_ms: how long one of Litestream is.
        takeover_ms: how long a takeover may take: the first sync brings the whole database into the object store.
        unsynced_ms: how long syncs may fail before a primary lets another machine lead.
        sync_pace_ms: the least time between two syncs.
        span_ms: the least time for which an entry stays in ``recent``.
        keep_ms: the time for which it stays while there is room.
        recent_entries: how many entries ``recent`` holds at most.
        recent_bytes: how large they are together at most.
    """

    machine: str
    region: str = ""
    rank: int = 0
    automatic: bool = True
    bound_ms: int = defaults.BOUND_MS
    lease_ms: int = defaults.LEASE_MS
    margin_ms: int = 1_000
    rank_ms: int = 500
    poll_ms: int = 250
    idle_poll_ms: int = 3_000
    in_use_ms: int = 10_000
    answer_ms: int = 1_500
    sync_ms: int = 10_000
    takeover_ms: int = 60_000
    unsynced_ms: int = 60_000
    sync_pace_ms: int = 1_000
    span_ms: int = 1_000
    keep_ms: int = 30_000
    recent_entries: int = RECENT_ENTRIES_MAX
    recent_bytes: int = RECENT_BYTES_MAX
