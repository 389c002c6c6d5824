"""What the machines say of themselves: whether they are one authority, all well, in more than one region. Pure.

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
"""How far clocks may be apart beyond what is uncertain. NTP keeps them within some ms; what breaks first, a request
from the future, does at 5 s."""

IDENTITY: Final = Check(
    "identity",
    "the authority has the name and key that TKDB_AUTHORITY says",
    "compare TKDB_AUTHORITY with what `tkdb keys public` says in the authority's environment",
)
ANSWERING: Final = Check(
    "machines-answer",
    "every machine answers, and is fresh enough to",
    "look at its log: `fly logs`, and `fly machine status`",
)
ATTESTED: Final = Check(
    "attested",
    "only callers that the proxy attests are answered",
    "set TKDB_FLY_SRC=require, then `fly deploy`",
)
REGIONS: Final = Check(
    "regions",
    "there are machines in two regions or more",
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
    "the clocks of machines, bucket and caller agree",
    "set the clock that is alone with its time; a machine that was suspended must be restarted",
)


NO_FLYCAST: Final = "TKDB_URL isn't a .flycast name"
UNTOLD: Final = Unlearned("no machine said how it is")


@dataclass(frozen=True, slots=True)
class SeenMachine:
    """A machine, and what came of asking it.

    Attributes:
        machine: its name; of one that is known by its URL only, that URL.
        region: where it is; empty where that isn't known.
        came: what it said, or why it didn't.
    """

    machine: str
    region: str
    came: Answered | NoAnswer

    @property
    def name(self) -> str:
        """The machine in words."""
        return f"{self.machine} in {self.region}" if self.region else self.machine


@dataclass(frozen=True, slots=True)
class Dated:
    """A clock: whose it is, how far it is ahead of the caller's, and how far off that may be."""

    whose: str
    ahead_ms: int
    within_ms: int


def told(seen: Sequence[SeenMachine]) -> list[tuple[SeenMachine, Answered]]:
    """Return the machines that said how they are."""
    return [(each, each.came) for each in seen if isinstance(each.came, Answered)]


def identity(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether who answers is who is expected."""
    if isinstance(seen, Absent):
        return IDENTITY.unmade(seen)
    strangers = [each for each in seen if _silence(each) is NoAnswerReason.IDENTITY]
    heard = told(seen)
    if strangers:
        return IDENTITY.judged((f"{each.name}: {_why(each)}" for each in strangers), "")
    if not heard:
        return IDENTITY.unmade(UNTOLD)
    return IDENTITY.passed(f"{heard[0][1].report.name}, by {_machines(len(heard))}")


def machines_answer(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether every machine can do its work."""
    if isinstance(seen, Absent):
        return ANSWERING.unmade(seen)
    if not seen:
        return ANSWERING.failed("the app has no machine", "`fly deploy --no-public-ips --ha=false`")
    refused = [each for each in seen if _silence(each) is NoAnswerReason.ATTESTATION]
    if refused and not told(seen):
        return ANSWERING.failed(
            f"this caller isn't let in: {_why(refused[0])}",
            "run it where an app that may call runs, or add this app to TKDB_FLY_SRC_APPS",
        )
    faults = [f"{each.name} doesn't answer: {_why(each)}" for each in seen if isinstance(each.came, NoAnswer)]
    faults += [f"{each.name} can't serve: {came.report.fault}" for each, came in told(seen) if came.report.fault]
    return ANSWERING.judged(faults, f"{_machines(len(seen))}, at most {_oldest(seen)} behind")


def attested(seen: Sequence[SeenMachine] | Absent, setups: Sequence[Setup] | Absent, *, on_fly: bool) -> Finding:
    """Judge whether attestation is required: by what machines say, and what is configured.

    Args:
        seen: the machines.
        setups: how they are set up.
        on_fly: whether it is called through flycast. Elsewhere nobody attests callers.
    """
    heard = [] if isinstance(seen, Absent) else told(seen)
    refused = not isinstance(seen, Absent) and any(_silence(each) is NoAnswerReason.ATTESTATION for each in seen)
    faults = [f"{each.name} answers requests without Fly-Src" for each, came in heard if not came.report.attested]
    if faults and not on_fly and isinstance(setups, Absent):
        return ATTESTED.unmade(NotAsked(f"{NO_FLYCAST}, and elsewhere nobody attests callers"))
    if not isinstance(setups, Absent):
        proven = bool(heard or refused) and not faults
        faults += configured.faults(partial(configured.fly_src, proven=proven), setups)
    elif not heard and not refused:
        return ATTESTED.unmade(seen if isinstance(seen, Absent) else UNTOLD)
    by = [f"{_machines(len(heard))} said so"] if heard else []
    by += ["this caller was refused for want of it"] if refused and not heard else []
    by += [] if isinstance(setups, Absent) else [each.where for each in setups]
    return ATTESTED.judged(faults, listed(by))


def regions(places: Sequence[KnownMachine] | Absent) -> Finding:
    """Judge where machines are."""
    if isinstance(places, Absent):
        return REGIONS.unmade(places)
    where = Counter(each.region for each in dict.fromkeys(places))
    if len(where) > 1:
        return REGIONS.passed(f"{_machines(where.total())} in {listed(where)}")
    if not where:
        return REGIONS.failed("there is no machine")
    return REGIONS.failed(f"{'the only machine is' if where.total() == 1 else 'all machines are'} in {listed(where)}")


def one_cluster(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether the machines are one authority's."""
    if isinstance(seen, Absent):
        return ONE_CLUSTER.unmade(seen)
    heard = told(seen)
    if not heard:
        return ONE_CLUSTER.unmade(UNTOLD)
    alone = [each for each, came in heard if came.report.cluster is None and not came.report.fault]
    if alone and len(seen) == 1:
        return ONE_CLUSTER.passed(f"{alone[0].name} stands alone")
    faults = [f"{each.name} stands alone, without a bucket" for each in alone]
    journals: dict[bytes, list[str]] = {}
    for each, came in heard:
        if any(came.journal):  # a machine that has read nothing yet has none
            journals.setdefault(came.journal, []).append(each.name)
    if len(journals) > 1:
        faults.append("there are several journals: " + ", ".join(_journal(*pair) for pair in journals.items()))
    faults += _leadership([came.report for _, came in heard])
    head = _newest(came.report for _, came in heard)
    led = f"{head.primary} in {head.region} is primary, epoch {head.epoch}" if head else ""
    return ONE_CLUSTER.judged(faults, led or "no machine has read a head")


def one_version(seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge whether a deployment was left halfway."""
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
    """Judge whether all go by the same time: against the caller's, as that is where it is compared."""
    times = [] if isinstance(seen, Absent) else [
        Dated(each.name, came.ahead_ms, came.within_ms) for each, came in told(seen) if came.ahead_ms is not None
    ]  # fmt: skip
    times += [bucket] if isinstance(bucket, Dated) else []
    if not times:
        unlearned = Unlearned("no machine told its time") if not isinstance(seen, Absent) else seen
        return CLOCKS.unmade(bucket if isinstance(bucket, Unlearned) else unlearned)
    off = [each for each in times if abs(each.ahead_ms) > each.within_ms + APART_MS]
    if len(off) == len(times) > 1:
        return CLOCKS.failed(f"all are apart from this caller's clock; {_apart(off[0])}", "set this caller's clock")
    return CLOCKS.judged(map(_apart, off), f"{_number(len(times), 'clock')} and this caller's, within 2 s")


def alike(seen: Sequence[SeenMachine]) -> bool:
    """Return whether the machines show one head, as far as they answered: else they may be in the midst of a change."""
    heads = {(each.epoch, each.primary) for each in _clusters(came.report for _, came in told(seen))}
    leaders = [came for _, came in told(seen) if came.report.role == "primary" and came.report.cluster is not None]
    return len(heads) <= 1 and len(leaders) <= 1 and all(primary for _, primary in heads)


def _leadership(reports: Sequence[api.StatusReport]) -> list[str]:
    heads = list(_clusters(reports))
    if not heads:
        return []
    leaders = sorted({each.machine for each in reports if each.role == "primary" and each.cluster is not None})
    if len(leaders) > 1:
        return [f"{listed(leaders)} all lead"]
    newest = max(heads, key=lambda head: head.rev)
    at_once = sorted({head.primary for head in heads if head.epoch == newest.epoch and head.primary})
    if len(at_once) > 1:
        return [f"in epoch {newest.epoch}, some follow {at_once[0]} and some {at_once[1]}"]
    if not newest.primary:
        return ["no machine is primary"]
    if newest.unchanged_ms > newest.lease_ms:
        return [f"{newest.primary} was primary, and hasn't been heard of for {newest.unchanged_ms / 1000:.1f} s"]
    return []


def _clusters(reports: Iterable[api.StatusReport]) -> list[api.Cluster]:
    return [each.cluster for each in reports if each.cluster is not None]


def _newest(reports: Iterable[api.StatusReport]) -> api.Cluster | None:
    return max(_clusters(reports), key=lambda head: head.rev, default=None)


def _silence(seen: SeenMachine) -> NoAnswerReason | None:
    return seen.came.silence if isinstance(seen.came, NoAnswer) else None


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
