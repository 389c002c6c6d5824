"""Checks of the bucket: it is fit for a lease, survives the loss of a region, and is closed to the public. Pure.

>>> location(None), location("iad"), location("iad,fra").kind, location("eur").strong
(Location(kind='global', regions=()), Location(kind='single', regions=('iad',)), 'dual', True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tkdb import errors
from tkdb_ops.doctor.findings import Absent, Check, Finding, NotAsked, Unlearned, listed
from tkdb_ops.doctor.machines import Dated, SeenMachine, told
from tkdb_ops.doctor.network import KnownMachine
from tkdb_replication.cluster.head_object import Absent as NoHead
from tkdb_replication.cluster.head_object import Damaged, Sound, describe
from tkdb_replication.protocol.head import Head

GEOGRAPHIES: Final = frozenset({"usa", "eur"})
"""The locations of Tigris's Multi-region buckets. Source: https://www.tigrisdata.com/docs/buckets/locations/"""

FIT: Final = Check(
    "bucket-fit",
    "the bucket honours conditions, and reads see every write",
    "use a bucket with conditional writes and strong reads; on Tigris a Single- or Multi-region one",
)
STRONG: Final = Check(
    "bucket-strong",
    "the bucket reads the same from every region",
    "move to a Multi-region (or Single-region) bucket: Tigris keeps the other kinds consistent only within a region",
)
OUTLIVES: Final = Check(
    "bucket-outlives",
    "the bucket isn't lost together with the machines' region",
    "use a Multi-region bucket, or one in another region than the machines; if it is lost, revocations are lost",
)
CLOSED: Final = Check(
    "bucket-closed",
    "nobody can read the bucket without a key",
    "make the bucket private; `fly storage dashboard` shows who may read it",
)
HEAD: Final = Check(
    "bucket-head",
    "the bucket's head is sound, and the machines follow it",
    "follow docs/recovery.md: a head that is lost or altered, or an older head that was put back",
)


@dataclass(frozen=True, slots=True)
class Location:
    """The kind of a Tigris bucket, and the regions in which it keeps objects."""

    kind: Literal["global", "dual", "multi", "single"]
    regions: tuple[str, ...] = ()

    @property
    def strong(self) -> bool:
        """True if a read sees every write, in whichever regions the two are made."""
        return self.kind in ("multi", "single")

    def __str__(self) -> str:
        where = f" ({', '.join(self.regions)})" if self.regions else ""
        return f"{self.kind.capitalize()}{'-region' if self.kind != 'global' else ''}{where}"


def location(object_regions: str | None) -> Location:
    """Return the location that Tigris's ``object_regions`` stand for. No regions at all means everywhere."""
    regions = tuple(filter(None, (each.strip() for each in (object_regions or "").split(","))))
    if not regions or regions == ("global",):
        return Location("global")
    if len(regions) > 1:
        return Location("dual", regions)
    return Location("multi" if regions[0] in GEOGRAPHIES else "single", regions)


@dataclass(frozen=True, slots=True)
class Readable:
    """The result of reading the bucket without a key: ``what`` could be read; empty if nothing could."""

    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """The facts about a bucket. A part that couldn't be gathered is replaced by the reason."""

    fit: errors.UnfitObjectStore | Absent | None
    location: Location | Absent
    readable: Readable | Absent
    clock: Dated | Absent
    head: Sound | Damaged | NoHead | Absent

    @classmethod
    def absent(cls, why: Absent) -> Examined:
        """Return the facts if none could be gathered, for the reason ``why``."""
        return cls(why, why, why, why, why)


def fit(outcome: errors.UnfitObjectStore | Absent | None) -> Finding:
    """Judge the fault that the probe found; None if it found none."""
    if isinstance(outcome, NotAsked | Unlearned):
        return FIT.unmade(outcome)
    if outcome is None:
        return FIT.passed("it honoured conditions under concurrent writes")
    return FIT.failed(outcome.message, outcome.hint)


def strong(found: Location | Absent) -> Finding:
    """Judge the kind of a Tigris bucket. A probe from one place can't distinguish eventual reads from strong reads."""
    if not isinstance(found, Location):
        return STRONG.unmade(found)
    return STRONG.passed(f"it is {found}") if found.strong else STRONG.failed(f"it is {found}: eventual across regions")


def outlives(found: Location | Absent, places: Sequence[KnownMachine] | Absent) -> Finding:
    """Judge whether the loss of one region destroys both the machines and the bucket."""
    if not isinstance(found, Location):
        return OUTLIVES.unmade(found)
    if found.kind != "single":
        return OUTLIVES.passed(f"it is {found}")
    if isinstance(places, Absent):
        return OUTLIVES.unmade(places)
    if {each.region for each in places} <= set(found.regions):
        return OUTLIVES.failed(f"it is in {listed(found.regions)}, and so are all machines")
    return OUTLIVES.passed(f"it is in {listed(found.regions)}; acknowledged writes are lost with that region")


def closed(found: Readable | Absent) -> Finding:
    """Judge whether anything can be read without a key."""
    if not isinstance(found, Readable):
        return CLOSED.unmade(found)
    return CLOSED.judged((f"{what} can be read without a key" for what in found.what), "reads need a key")


def head(found: Sound | Damaged | NoHead | Absent, seen: Sequence[SeenMachine] | Absent) -> Finding:
    """Judge the bucket's head, and whether it is the head that the machines report to follow."""
    match found:
        case NotAsked() | Unlearned():
            return HEAD.unmade(found)
        case NoHead():
            return HEAD.failed(
                "there is no head in the bucket", "run `tkdb init`, once; or `tkdb recover`, if the head is lost"
            )
        case Damaged(error):
            return HEAD.failed(error.message, error.hint)
    return HEAD.judged(_others(found.head, seen), describe(found.head))


def _others(ours: Head, seen: Sequence[SeenMachine] | Absent) -> list[str]:
    """Return the machines that follow another head. The bucket was read after the machines were asked."""
    faults = []
    for each, came in told(seen) if not isinstance(seen, Absent) else ():
        cluster = came.report.cluster
        if any(came.journal) and came.journal != ours.journal:
            faults.append(f"{each.name} follows journal {came.journal.hex()[:8]}…, not {ours.journal.hex()[:8]}…")
        elif cluster is not None and cluster.rev > ours.rev:
            faults.append(f"{each.name} has seen head {cluster.rev}, but the bucket's is {ours.rev}")
    return faults
