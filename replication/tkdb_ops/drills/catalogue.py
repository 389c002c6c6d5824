"""The catalogue of drills, in the order in which ``tkdb drill run all`` runs them. Pure.

>>> find("primary-killed").title
'The primary is killed'
>>> find("primary-kiled")
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: there is no drill 'primary-kiled': did you mean primary-killed?
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from tkdb.errors import ConfigurationError
from tkdb_ops.drills.drill import Drill, Role, Step, Verb, wait

_TAKEOVER: Final = Step(Verb.TAKEOVER, amount=25_000)
_ATTEMPT_MS: Final = 1_500
"""The client's timeout for one attempt. A machine that hangs costs this time, and then the proxy's check takes time."""

DRILLS: Final = (
    Drill(
        "nearest-lost",
        "The machine nearest to callers is lost",
        "The proxy sends calls to the next region, and no call fails.",
        fault=(Step(Verb.KILL, Role.NEAREST), wait(8_000)),
        mend=(Step(Verb.START, Role.NEAREST),),
    ),
    Drill(
        "machine-hung",
        "A machine hangs: it accepts connections, but answers nothing",
        "The client's timeout and the proxy's check move the calls to another region.",
        fault=(Step(Verb.PAUSE, Role.NEAREST), wait(8_000)),
        mend=(Step(Verb.RESUME, Role.NEAREST),),
        limits={"longest_read_ms": 4 * _ATTEMPT_MS, "reads_back_ms": 4 * _ATTEMPT_MS},
    ),
    Drill(
        "crash-loop",
        "A machine crashes repeatedly as it starts",
        "A machine that is healthy only for moments causes no failed call.",
        fault=(Step(Verb.KILL, Role.NEAREST), *(Step(Verb.START, Role.NEAREST), Step(Verb.KILL, Role.NEAREST)) * 3),
        mend=(Step(Verb.START, Role.NEAREST),),
    ),
    Drill(
        "proxy-lost",
        "The proxy in the nearest machine's region is lost",
        "The callers' own proxies avoid it.",
        fault=(Step(Verb.LOSE_PROXY, Role.NEAREST), wait(6_000)),
        mend=(Step(Verb.START_PROXY, Role.NEAREST),),
    ),
    Drill(
        "nearest-cordoned",
        "The nearest machine is cordoned: the proxy sends it no requests",
        "Calls go to the next region, none is cut off, and they return afterwards.",
        fault=(Step(Verb.CORDON, Role.NEAREST), wait(8_000)),
        mend=(Step(Verb.UNCORDON, Role.NEAREST),),
    ),
    Drill(
        "primary-killed",
        "The primary is killed",
        "Another machine takes over after a lease, no acknowledged write is lost, and reads never stop.",
        fault=(Step(Verb.KILL, Role.PRIMARY), _TAKEOVER, wait(2_000)),
        mend=(Step(Verb.START, Role.PRIMARY),),
    ),
    Drill(
        "primary-hung",
        "The primary hangs, and wakes up when another machine is primary",
        "When it wakes up, it doesn't acknowledge the writes in progress: it finds a new epoch, and becomes a replica.",
        fault=(Step(Verb.PAUSE, Role.PRIMARY), _TAKEOVER, wait(2_000)),
        mend=(Step(Verb.RESUME, Role.PRIMARY),),
        limits={"longest_read_ms": 4 * _ATTEMPT_MS, "reads_back_ms": 4 * _ATTEMPT_MS},
    ),
    Drill(
        "split-brain",
        "The primary is cut off, but alive",
        "It acknowledges nothing and soon refuses calls. Another machine takes over; later the old primary follows it.",
        fault=(Step(Verb.ISOLATE, Role.PRIMARY), _TAKEOVER, wait(3_000)),
        mend=(Step(Verb.HEAL),),
        limits={"longest_read_ms": 4 * _ATTEMPT_MS, "reads_back_ms": 4 * _ATTEMPT_MS},
        blinds=Role.PRIMARY,
    ),
    Drill(
        "primary-without-store",
        "The primary's region is cut off only from the object store",
        "It stops being primary although it is otherwise healthy, and other machines serve its callers.",
        fault=(Step(Verb.CUT_STORE, Role.PRIMARY), _TAKEOVER, wait(2_000)),
        mend=(Step(Verb.HEAL),),
        limits={"longest_read_ms": 4 * _ATTEMPT_MS, "reads_back_ms": 4 * _ATTEMPT_MS},
    ),
    Drill(
        "store-blip",
        "The object store is down for less than the bound",
        "Reads continue as usual; writes wait.",
        fault=(Step(Verb.CUT_STORE, Role.EVERY), wait(2_500)),
        mend=(Step(Verb.HEAL),),
    ),
    Drill(
        "store-down",
        "The object store is down for a minute: longer than every bound",
        "Within the bound, tokens verify. After it, every machine refuses, and no token is accepted by mistake.",
        fault=(Step(Verb.STALL_STORE, Role.EVERY), wait(60_000)),
        mend=(Step(Verb.HEAL),),
        limits={"longest_read_ms": 4 * _ATTEMPT_MS, "reads_back_ms": 4 * _ATTEMPT_MS},
        blinds=Role.EVERY,
    ),
    Drill(
        "store-slow",
        "The object store is slow",
        "Writes wait for the store; reads are unaffected.",
        fault=(Step(Verb.SLOW_STORE, Role.EVERY, 300), wait(10_000)),
        mend=(Step(Verb.HEAL),),
    ),
    Drill(
        "replica-lagging",
        "A replica lags: it reads the object store late",
        "It answers only from data that is provably fresh enough, and accepts no revoked token after the bound.",
        fault=(Step(Verb.SLOW_STORE, Role.NEAREST, 600), wait(10_000)),
        mend=(Step(Verb.HEAL),),
    ),
    Drill(
        "litestream-killed",
        "Litestream is killed on the primary",
        "It is restarted, and no caller is affected.",
        fault=(Step(Verb.KILL_LITESTREAM, Role.PRIMARY), wait(6_000)),
    ),
    Drill(
        "replica-damaged",
        "A replica's database is damaged while it is down",
        "The damage is detected, the database is never served from, and it is restored from the bucket.",
        fault=(Step(Verb.KILL, Role.NEAREST), Step(Verb.DAMAGE, Role.NEAREST), wait(1_000)),
        mend=(Step(Verb.START, Role.NEAREST),),
    ),
    Drill(
        "disk-full",
        "The primary's disk is full",
        "It refuses writes with a reason and hands over to another machine; verification continues.",
        fault=(Step(Verb.FILL_DISK, Role.PRIMARY), _TAKEOVER, wait(2_000)),
        mend=(Step(Verb.FREE_DISK, Role.PRIMARY),),
        limits={"longest_read_ms": 4 * _ATTEMPT_MS, "writes_back_ms": 20_000},
    ),
    Drill(
        "rolling-deploy",
        "Every machine is stopped and started in turn, under load",
        "A deploy moves the primary in a planned handover, and no call fails.",
        fault=(
            *(Step(Verb.STOP, Role.NEAREST), Step(Verb.START, Role.NEAREST)),
            *(Step(Verb.STOP, Role.OTHER), Step(Verb.START, Role.OTHER)),
            *(Step(Verb.STOP, Role.PRIMARY), Step(Verb.START, Role.PRIMARY)),
        ),
        limits={"writes_back_ms": 5_000},
    ),
    Drill(
        "rotation",
        "Root keys are rotated, and records are resealed, under load",
        "Tokens under the old key still verify; at the end, every record is sealed under the new secret.",
        fault=(Step(Verb.ROTATE), Step(Verb.RESEAL), Step(Verb.ROTATE)),
    ),
    Drill(
        "mass-revocation",
        "100,000 tokens are revoked at once",
        "Every region refuses them; other writes and reads continue at the same time.",
        fault=(Step(Verb.REVOKE_MANY, amount=100_000),),
    ),
    Drill(
        "restored",
        "A bad write is undone by a restore to the point before it",
        "The write is undone everywhere; tokens that were revoked since then stay revoked.",
        fault=(Step(Verb.SPOIL), wait(4_000), Step(Verb.RESTORE)),
    ),
    Drill(
        "all-down",
        "Every machine in every region is lost",
        "Callers are refused at the bound at the latest; every acknowledged write is there afterwards.",
        fault=(Step(Verb.KILL, Role.EVERY), wait(10_000)),
        mend=(Step(Verb.START, Role.EVERY),),
        limits={"reads_back_ms": 15_000, "writes_back_ms": 30_000},
        blinds=Role.EVERY,
    ),
    Drill(
        "cold-start",
        "Every machine is lost with its disk, and restarts from the bucket",
        "The bucket alone restores every acknowledged write.",
        fault=(Step(Verb.KILL, Role.EVERY), Step(Verb.LOSE_DISK, Role.EVERY), wait(1_000)),
        mend=(Step(Verb.START, Role.EVERY),),
        limits={"reads_back_ms": 30_000, "writes_back_ms": 45_000},
        blinds=Role.EVERY,
    ),
    Drill(
        "clock-jump",
        "The nearest machine's clock differs from the object store's by an hour",
        "It refuses calls that depend on the time, with this reason. The next machine answers them, and no call fails.",
        fault=(Step(Verb.SHIFT_CLOCK, Role.NEAREST, 3_600_000), wait(7_000)),
        mend=(Step(Verb.HEAL),),
    ),
)

NAMES: Final = tuple(drill.name for drill in DRILLS)


def find(name: str) -> Drill:
    """Return the drill of this name.

    Raises:
        ConfigurationError: there is no drill of this name.
    """
    for drill in DRILLS:
        if drill.name == name:
            return drill
    near = get_close_matches(name, NAMES, 1)
    hint = f"did you mean {near[0]}?" if near else "see `tkdb drill list`"
    raise ConfigurationError(f"there is no drill {name!r:.40}", hint=hint)
