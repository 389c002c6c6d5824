"""Checks of the machines' own reports: they are one authority, all healthy, and in more than one region. Pure.

>>> silent = NoAnswer(NoAnswerReason.UNREACHED, "http://tkdb.flycast didn't answer within 5000 ms")
>>> seen = [SeenMachine("m-1", "syd", silent)]
>>> machines_answer(seen).found
"m-1 in syd doesn't answer: http://tkdb.flycast didn't answer within 5000 ms"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tkdb import api
from tkdb_ops.doctor import configured
from tkdb_ops.doctor.asking import Answered, NoAnswer, NoAnswerReason
from tkdb_ops.doctor.deployment import Setup
from tkdb_ops.doctor.findings import Absent, Check, Finding, NotAsked, Unlearned, listed
from tkdb_ops.doctor.network import KnownMachine

APART_MS: Final = 2_000
"""How far clocks may be apart, in addition to the measurement's uncertainty.

NTP keeps clocks within some ms. The first failure, a request from the future, occurs at 5 s.
"""

IDENTITY: Final = Check(
    "identity",
    "the authority has the name and key that TKDB_AUTHORITY contains",
    "compare TKDB_AUTHORITY with the output of `tkdb keys public` in the authority's environment",
)
ANSWERING: Final = Check(
    "machines-answer",
    "every machine answers, and its data is fresh enough",
    "look at its log: `fly logs`, and `fly machine status`",
)
ATTESTED: Final = Check(
    "attested",
    "only callers that the proxy attests are answered",
    "set TKDB_FLY_SRC=require, then `fly deploy`",
)
REGIONS: Final = Check(
    "regions",
    "there are machines in at least two regions",
    "add one in another region: `fly scale count 1 --region ams`",
)
ONE_CLUSTER: Final = Check(
    "one-cluster",
    "all machines follow one journal and one primary",
    "give every machine the same bucket: `fly secrets list`, then compare BUCKET_NAME and TKDB_NAME",
)
ONE_VERSION: Final = Check(
    "one-version", "all machines run one version of tkdb", "finish the deployment: `fly deploy`, then `fly status`"
)
CLOCKS: Final = Check(
    "clocks",
    "the clocks of the machines, the bucket and the caller agree",
    "set the clock that differs from the others; restart a machine that was suspended",
)


NO_FLYCAST: Final = "TKDB_URL isn't a .flycast name"
UNTOLD: Final = Unlearned("no machine reported its status")


@dataclass(frozen=True, slots=True)
class SeenMachine:
    """A machine, and the result of asking it for its status.

    Attributes:
        machine: its name; or its URL, if only that is known.
        region: its region; empty if that isn't known.
        came: its report, or the reason why there is none.
    """

    machine: str
    region: str
    came: Answered | NoAnswer

    @property
    def name(self) -> str:
        """The machine's name and region in words."""
        return f"{self.machine} in {self.region}" if self.region else self.machine


@dataclass(frozen=True, slots=True)
class Dated:
    """A clock: its owner, how far it is ahead of the caller's clock, and how far off that may be."""

    whose: str
    ahead_ms: int
    within_ms: int


def told(seen: Sequence[SeenMachine]) -> list[tuple[SeenMachine, Answered]]:
    """Return the machines that reported their status, with their reports."""
    return [(each, each.came) for each in seen if isinstance(each.came, Answered)]


def identity(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether the machines have the expected name and key."""
    if isinstance(seen, Absent):
        return IDENTITY.unmade(seen)
    strangers = [each for each in seen if _reason(each) is NoAnswerReason.IDENTITY]
    heard = told(seen)
    if strangers:
        return IDENTITY.judged((f"{each.name}: {_why(each)}" for each in strangers), "")
    if not heard:
        return IDENTITY.unmade(UNTOLD)
    return IDENTITY.passed(f"{heard[0][1].report.name}, by {_machines(len(heard))}")


def machines_answer(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether every machine can serve requests."""
    if isinstance(seen, Absent):
        return ANSWERING.unmade(seen)
    if not seen:
        return ANSWERING.failed("the app has no machine", "`fly deploy --no-public-ips --ha=false`")
    refused = [each for each in seen if _reason(each) is NoAnswerReason.ATTESTATION]
    if refused and not told(seen):
        return ANSWERING.failed(
            f"this caller is refused: {_why(refused[0])}",
            "run the doctor in an app that may call the authority, or add this app to TKDB_FLY_SRC_APPS",
        )
    faults = [f"{each.name} doesn't answer: {_why(each)}" for each in seen if isinstance(each.came, NoAnswer)]
    faults += [f"{each.name} can't serve: {came.report.fault}" for each, came in told(seen) if came.report.fault]
    return ANSWERING.judged(faults, f"{_machines(len(seen))}, at most {_oldest(seen)} behind")


def attested(seen: Sequence[SeenMachine] | Absent, setups: Sequence[Setup] | Absent, *, on_fly: bool) -> Finding:
    """Judge whether attestation is required, by the machines' reports and by the configurations.

    Args:
        seen: the machines.
        setups: the configurations.
        on_fly: True if callers reach the authority through flycast. Elsewhere nobody attests callers.
    """
    heard = [] if isinstance(seen, Absent) else told(seen)
    refused = not isinstance(seen, Absent) and any(_reason(each) is NoAnswerReason.ATTESTATION for each in seen)
    faults = [f"{each.name} answers requests without Fly-Src" for each, came in heard if not came.report.attested]
    if faults and not on_fly and isinstance(setups, Absent):
        return ATTESTED.unmade(NotAsked(f"{NO_FLYCAST}, and elsewhere nobody attests callers"))
    if not isinstance(setups, Absent):
        proven = bool(heard or refused) and not faults
        faults += configured.faults(partial(configured.fly_src, proven=proven), setups)
    elif not heard and not refused:
        return ATTESTED.unmade(seen if isinstance(seen, Absent) else UNTOLD)
    by = [f"{_machines(len(heard))} reported it"] if heard else []
    by += ["this caller was refused without it"] if refused and not heard else []
    by += [] if isinstance(setups, Absent) else [each.where for each in setups]
    return ATTESTED.judged(faults, listed(by))


def regions(places: Sequence[KnownMachine] | Absent) -> Finding:
    """Judge whether the machines are in more than one region."""
    if isinstance(places, Absent):
        return REGIONS.unmade(places)
    where = Counter(each.region for each in dict.fromkeys(places))
    if len(where) > 1:
        return REGIONS.passed(f"{_machines(where.total())} in {listed(where)}")
    if not where:
        return REGIONS.failed("there is no machine")
    return REGIONS.failed(f"{'the only machine is' if where.total() == 1 else 'all machines are'} in {listed(where)}")


def one_cluster(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether all machines belong to one authority."""
    if isinstance(seen, Absent):
        return ONE_CLUSTER.unmade(seen)
    heard = told(seen)
    if not heard:
        return ONE_CLUSTER.unmade(UNTOLD)
    alone = [each for each, came in heard if came.report.cluster is None and not came.report.fault]
    if alone and len(seen) == 1:
        return ONE_CLUSTER.passed(f"{alone[0].name} is the only machine, without a bucket")
    faults = [f"{each.name} runs alone, without a bucket" for each in alone]
    journals: dict[bytes, list[str]] = {}
    for each, came in heard:
        if any(came.journal):  # A machine that has read nothing yet has no journal id.
            journals.setdefault(came.journal, []).append(each.name)
    if len(journals) > 1:
        faults.append("there are several journals: " + ", ".join(_journal(*pair) for pair in journals.items()))
    faults += _leadership([came.report for _, came in heard])
    head = _newest(came.report for _, came in heard)
    led = f"{head.primary} in {head.region} is primary, epoch {head.epoch}" if head else ""
    return ONE_CLUSTER.judged(faults, led or "no machine has read a head")


def one_version(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether all machines run the same version. They don't if a deployment stopped halfway."""
    if isinstance(seen, Absent):
        return ONE_VERSION.unmade(seen)
    versions: dict[str, list[str]] = {}
    for each, came in told(seen):
        versions.setdefault(came.report.version, []).append(each.name)
    if not versions:
        return ONE_VERSION.unmade(UNTOLD)
    if len(versions) == 1:
        return ONE_VERSION.passed(f"tkdb {next(iter(versions))}")
    return ONE_VERSION.failed("; ".join(f"tkdb {version} on {listed(who)}" for version, who in versions.items()))


def clocks(seen: Sequence[SeenMachine] | Absent, bucket: Dated | Absent) -> Finding:
    """Judge whether all clocks agree with the caller's clock, because the times are measured against that one."""
    times = [] if isinstance(seen, Absent) else [
        Dated(each.name, came.ahead_ms, came.within_ms) for each, came in told(seen) if came.ahead_ms is not None
    ]  # fmt: skip
    times += [bucket] if isinstance(bucket, Dated) else []
    if not times:
        unlearned = Unlearned("no machine reported its time") if not isinstance(seen, Absent) else seen
        return CLOCKS.unmade(bucket if isinstance(bucket, Unlearned) else unlearned)
    off = [each for each in times if abs(each.ahead_ms) > each.within_ms + APART_MS]
    if len(off) == len(times) > 1:
        return CLOCKS.failed(f"all clocks differ from this caller's; {_apart(off[0])}", "set this caller's clock")
    return CLOCKS.judged(map(_apart, off), f"{_number(len(times), 'clock')} and this caller's, within 2 s")


def alike(seen: Sequence[SeenMachine]) -> bool:
    """Return True if all machines that answered report one head. If they don't, a takeover may be in progress."""
    heads = {(each.epoch, each.primary) for each in _clusters(came.report for _, came in told(seen))}
    leaders = [came for _, came in told(seen) if came.report.role == "primary" and came.report.cluster is not None]
    return len(heads) <= 1 and len(leaders) <= 1 and all(primary for _, primary in heads)


def _leadership(reports: Sequence[api.StatusReport]) -> list[str]:
    heads = list(_clusters(reports))
    if not heads:
        return []
    leaders = sorted({each.machine for each in reports if each.role == "primary" and each.cluster is not None})
    if len(leaders) > 1:
        return [f"{listed(leaders)} are all primary"]
    newest = max(heads, key=lambda head: (head.rev, -head.read_ms))
    if not newest.is_current:
        return [f"the primary is unknown: no machine has read the head for {newest.read_ms / 1000:.1f} s"]
    at_once = sorted({head.primary for head in heads if head.epoch == newest.epoch and head.primary})
    if len(at_once) > 1:
        return [f"in epoch {newest.epoch}, some follow {at_once[0]} and some {at_once[1]}"]
    if not newest.primary:
        return ["no machine is primary"]
    if newest.unchanged_ms > newest.lease_ms:
        return [f"the primary {newest.primary} hasn't changed the head for {newest.unchanged_ms / 1000:.1f} s"]
    return []


def _clusters(reports: Iterable[api.StatusReport]) -> list[api.Cluster]:
    return [each.cluster for each in reports if each.cluster is not None]


def _newest(reports: Iterable[api.StatusReport]) -> api.Cluster | None:
    return max(_clusters(reports), key=lambda head: (head.rev, -head.read_ms), default=None)


def _reason(seen: SeenMachine) -> NoAnswerReason | None:
    return seen.came.reason if isinstance(seen.came, NoAnswer) else None


def _why(seen: SeenMachine) -> str:
    return seen.came.why if isinstance(seen.came, NoAnswer) else ""


def _oldest(seen: Sequence[SeenMachine]) -> str:
    ages = [came.report.age_ms for _, came in told(seen) if came.report.age_ms is not None]
    return f"{max(ages, default=0) / 1000:.1f} s"


def _journal(journal: bytes, who: Sequence[str]) -> str:
    return f"{journal.hex()[:8]}… on {listed(who)}"


def _apart(each: Dated) -> str:
    way = "ahead of" if each.ahead_ms > 0 else "behind"
    return f"the clock of {each.whose} is {abs(each.ahead_ms) / 1000:.1f} s {way} this caller's"


def _machines(count: int) -> str:
    return _number(count, "machine")


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
