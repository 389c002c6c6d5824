"""All checks, and their findings on the gathered facts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tkdb_ops.doctor import configured, hosted, machines, network, store
from tkdb_ops.doctor.deployment import Assignment, DeployedMachine, Setup, Written
from tkdb_ops.doctor.findings import Absent, Check, Finding, Unlearned

CHECKS: Final[tuple[Check, ...]] = (
    network.PRIVATE_ADDRESS,
    hosted.NO_PUBLIC_ADDRESS,
    network.PAST_THE_PROXY,
    machines.ATTESTED,
    configured.BOUND,
    configured.PORTS_SERVED,
    configured.PLAIN_HTTP,
    configured.NO_SECRETS,
    configured.READABLE,
    machines.IDENTITY,
    machines.ANSWERING,
    hosted.HOSTED,
    machines.REGIONS,
    machines.ONE_CLUSTER,
    machines.ONE_VERSION,
    hosted.ALIKE,
    machines.CLOCKS,
    configured.AWAKE,
    configured.VOLUMES,
    configured.READINESS,
    configured.STOPPING,
    configured.LIMITS,
    store.FIT,
    store.STRONG,
    store.OUTLIVES,
    store.CLOSED,
    store.HEAD,
)
"""All checks, in the order in which findings are shown: who can get in, whether it works, whether it lasts."""

_ORDER: Final = {check.id: place for place, check in enumerate(CHECKS)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """All gathered facts. A part that couldn't be gathered is replaced by the reason."""

    doors: Sequence[network.Door] | Absent
    knocks: Sequence[network.Knock] | Absent
    seen: Sequence[machines.SeenMachine] | Absent
    assignments: Sequence[Assignment] | Absent
    hosted: Sequence[DeployedMachine] | Absent
    written: Written | Absent
    bucket: store.Examined
    places: Sequence[network.KnownMachine] | Absent

    @property
    def setups(self) -> Sequence[Setup] | Absent:
        """All known configurations."""
        found: list[Setup] = [self.written] if isinstance(self.written, Written) else []
        if isinstance(self.hosted, Absent):
            return found or self.hosted
        return (found + hosted.setups_of(self.hosted)) or Unlearned("the app has no machine")


def judge(facts: Evidence) -> list[Finding]:
    """Return the finding of every check on ``facts``. Pure."""
    on_fly = not isinstance(facts.doors, Absent) and any(network.app_of(door.host) for door in facts.doors)
    bucket = facts.bucket
    found = [
        network.private_address(facts.doors),
        network.past_the_proxy(facts.knocks),
        hosted.no_public_address(facts.assignments),
        hosted.hosted(facts.hosted),
        hosted.alike(facts.hosted, facts.written),
        machines.identity(facts.seen),
        machines.machines_answer(facts.seen),
        machines.attested(facts.seen, facts.setups, on_fly=on_fly),
        machines.regions(facts.places),
        machines.one_cluster(facts.seen),
        machines.one_version(facts.seen),
        machines.clocks(facts.seen, bucket.clock),
        *configured.configured(facts.setups),
        store.fit(bucket.fit),
        store.strong(bucket.location),
        store.outlives(bucket.location, facts.places),
        store.closed(bucket.readable),
        store.head(bucket.head, facts.seen),
    ]
    return sorted(found, key=lambda finding: _ORDER[finding.check])
