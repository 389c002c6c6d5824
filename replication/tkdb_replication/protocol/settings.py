"""The settings of one machine's state machine: its rank among the machines, and its times."""

from __future__ import annotations

from typing import Final

import msgspec

from tkdb import defaults
from tkdb_replication.protocol.head import RECENT_BYTES_MAX, RECENT_ENTRIES_MAX

NEVER_MS: Final = 2**62
"""A time later than any clock."""


class ProtocolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the rules. Times are in milliseconds.

    Attributes:
        machine: this machine's name, unique in the cluster.
        region: its region.
        rank: its rank in the configured order of primaries, from 0.
        automatic: whether it takes over when a lease runs out. If not, only three things make a primary: a primary that
            hands over, ``tkdb promote``, and a restart of the primary itself.
        bound_ms: the largest age of the data that this machine serves: its share of the published bound.
        lease_ms: how long other machines wait for this machine if it is primary and silent. It swaps every third of
            this.
        margin_ms: how much longer than a lease a machine waits.
        rank_ms: how much longer it waits for each step in rank.
        poll_ms: the pause between reads of the head while callers ask.
        idle_poll_ms: the pause while no caller asks, short enough to notice a lease that runs out.
        in_use_ms: how long after a caller's request the shorter pause applies.
        answer_ms: the timeout of a request to the object store.
        sync_ms: the timeout of one Litestream sync.
        takeover_ms: the timeout of a takeover: its first sync uploads the whole database.
        unsynced_ms: how long syncs may fail before a primary lets another machine lead.
        sync_pace_ms: the shortest time between two syncs.
        span_ms: the shortest time for which an entry stays in ``recent``.
        keep_ms: how long an entry stays there while there is room.
        recent_entries: the largest number of entries in ``recent``.
        recent_bytes: the largest size of these entries together.
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
