"""The doctor, which gathers facts about a deployment and runs every check on them.

    findings = await diagnose(Given(urls=..., identity=...), now_ms=now_ms, random_bytes=os.urandom)

Each source of facts is optional. A check that lacks its source is skipped, and its finding names the missing source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tkdb.channel.keys import AuthorityIdentity
from tkdb.net.url import Url
from tkdb.settings import SETTINGS, Address
from tkdb_ops.doctor import apps, buckets, hosted, machines, network, reach, store
from tkdb_ops.doctor.asking import Asker
from tkdb_ops.doctor.deployment import Assignment, DeployedMachine, Setup, Written
from tkdb_ops.doctor.findings import Absent, Finding, NotAsked, Unlearned
from tkdb_ops.doctor.verdict import Evidence, judge
from tkdb_ops.fly_api import FlyApi
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.protocol.head import HeadKeys

_PORT: Final = Address.parse(next(each.default or "" for each in SETTINGS if each.variable == "TKDB_BIND")).port
NO_URL: Final = "TKDB_URL isn't set"
NO_AUTHORITY: Final = "TKDB_AUTHORITY isn't set"
NO_TOKEN: Final = "FLY_API_TOKEN isn't set"  # noqa: S105  the variable's name
NO_APP: Final = "no Fly app is named: give --app"
NO_BUCKET: Final = "BUCKET_NAME isn't set"


@dataclass(frozen=True, slots=True)
class Given:
    """The sources that the doctor may use. A source that isn't given is None, or empty.

    Attributes:
        urls: the URLs at which callers reach the authority.
        identity: the authority's name and public keys.
        app: the app on Fly; by default the app that a .flycast URL or the fly.toml names.
        fly: Fly's API.
        written: a fly.toml.
        bucket: the machines' bucket.
        head_keys: the keys that authenticate the bucket's head.
    """

    urls: tuple[Url, ...] = ()
    identity: AuthorityIdentity | None = None
    app: str = ""
    fly: FlyApi | None = None
    written: Written | None = None
    bucket: Bucket | None = None
    head_keys: HeadKeys | None = None


async def diagnose(given: Given, *, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]) -> list[Finding]:
    """Return one finding for each check.

    Args:
        given: the sources to use.
        now_ms: the wall clock, ms since 1970.
        random_bytes: the source of keys, request ids and the probe's object.

    Raises:
        ConfigurationError: a given source can't be used.
    """
    return judge(await gather(given, now_ms=now_ms, random_bytes=random_bytes))


async def gather(given: Given, *, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]) -> Evidence:
    """Gather all facts that the given sources allow."""
    flycast = network.app_of(given.urls[0].host) if given.urls else None
    app = given.app or flycast or (given.written.app if given.written else "")
    doors, (assignments, listed) = await asyncio.gather(_doors(given.urls), _hosted(given.fly, app))
    if isinstance(assignments, NotAsked) and flycast and not isinstance(doors, Absent):
        assignments = await _looked_up(flycast, doors)
    places = await _places(flycast, listed, doors)
    seen: Sequence[machines.SeenMachine] | Absent = doors if isinstance(doors, Absent) else NotAsked(NO_AUTHORITY)
    if given.identity is not None and not isinstance(doors, Absent):
        asker = Asker(given.identity, now_ms=now_ms, random_bytes=random_bytes)
        seen = await reach.survey(asker, given.urls, places if flycast else NotAsked(machines.NO_FLYCAST))
    bucket = store.Examined.absent(NotAsked(NO_BUCKET))
    # The bucket is read after the machines, because its head then can't be older than the head that they have seen.
    if given.bucket is not None:
        bucket = await buckets.examine(given.bucket, given.head_keys, now_ms=now_ms, random_bytes=random_bytes)
    return Evidence(
        doors=doors,
        knocks=await _knocks(flycast, doors, places, _ports(given.written, listed)),
        seen=seen,
        assignments=assignments,
        hosted=listed,
        written=given.written or NotAsked("no --config is given"),
        bucket=bucket,
        places=_known(places, seen, given),
    )


async def _doors(urls: Sequence[Url]) -> list[network.Door] | Absent:
    if not urls:
        return NotAsked(NO_URL)
    found = await asyncio.gather(*map(reach.look_up, urls))
    lost = [each for each in found if isinstance(each, Unlearned)]
    return lost[0] if lost else [each for each in found if isinstance(each, network.Door)]


async def _hosted(fly: FlyApi | None, app: str) -> tuple[list[Assignment] | Absent, list[DeployedMachine] | Absent]:
    if fly is None:
        return NotAsked(NO_TOKEN), NotAsked(NO_TOKEN)
    if not app:
        return NotAsked(NO_APP), NotAsked(NO_APP)
    return await apps.addresses(fly, app), await apps.machines(fly, app)


async def _looked_up(app: str, doors: Sequence[network.Door]) -> list[Assignment] | Absent:
    """Return the app's addresses, if the name that Fly gives the app resolves to a public one.

    No name can prove that there is no public address, so the result is then `NotAsked`.
    """
    public = await reach.public_addresses(f"{app}.fly.dev")
    if not public:
        return NotAsked(NO_TOKEN)
    return [Assignment(each) for each in (*public, *doors[0].addresses)]


async def _places(
    flycast: str | None, listed: Sequence[DeployedMachine] | Absent, doors: Sequence[network.Door] | Absent
) -> list[network.KnownMachine] | Absent:
    """Return the app's machines, as Fly's API lists them; without the API, as the private network's resolver does."""
    if not isinstance(listed, Absent):
        return [network.KnownMachine(each.id, each.region) for each in listed]
    if isinstance(doors, Absent):
        return doors
    if flycast is not None:
        return await reach.places(flycast)
    return NotAsked(f"{machines.NO_FLYCAST}, so the doctor can't list the machines")


async def _knocks(
    flycast: str | None,
    doors: Sequence[network.Door] | Absent,
    places: Sequence[network.KnownMachine] | Absent,
    ports: Sequence[int],
) -> list[network.Knock] | Absent:
    for absent in (doors, places):
        if isinstance(absent, Absent):
            return absent
    if flycast is None or isinstance(places, Absent):
        return NotAsked(f"{machines.NO_FLYCAST}, so the doctor can't try to bypass the proxy")
    return await reach.knocks(flycast, places, ports)


def _ports(written: Written | None, listed: Sequence[DeployedMachine] | Absent) -> list[int]:
    setups: list[Setup] = [written] if written else []
    setups += [] if isinstance(listed, Absent) else hosted.setups_of(listed)
    return sorted({service.internal_port for each in setups for service in each.config.services or ()}) or [_PORT]


def _known(
    places: Sequence[network.KnownMachine] | Absent, seen: Sequence[machines.SeenMachine] | Absent, given: Given
) -> Sequence[network.KnownMachine] | Absent:
    """Return the machines' places. If there is no list but there are several URLs, use the machines that answered."""
    if isinstance(places, Absent) and not isinstance(seen, Absent) and len(given.urls) > 1:
        return [network.KnownMachine(each.machine, each.region) for each, _ in machines.told(seen)]
    return places
