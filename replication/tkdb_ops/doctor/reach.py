"""The probes of the network, from the caller's place: names, machines past the proxy, and the machines' reports.

On Fly, and in the stand-in, the resolver lists the machines of an app. Each machine is asked through the proxy, with a
header that selects the machine, and also directly, past the proxy. Elsewhere, only the given URLs are asked.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.resolver

from tkdb import api
from tkdb.net.url import Url
from tkdb_ops.doctor.asking import Answered, Asker, NoAnswer, NoAnswerReason
from tkdb_ops.doctor.findings import Absent, Unlearned
from tkdb_ops.doctor.machines import SeenMachine, alike
from tkdb_ops.doctor.network import Came, Door, Knock, KnownMachine
from tkdb_replication.bucket import http

ASK_MS: Final = 10_000
"""How long one machine may take to answer. A machine that was stopped because it had no traffic starts first."""
KNOCK_MS: Final = 3_000
NAME_S: Final = 5.0
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
AGAIN_S: Final = 1.0
TIMES: Final = 5
"""How many times machines are asked, at most, if they don't report one head, as during a takeover."""
ONE: Final = "fly-force-instance-id"
"""The header by which a request selects a machine at the proxy."""


async def look_up(url: Url) -> Door | Unlearned:
    """Return the addresses that this machine's resolver gives for the URL's host."""
    try:
        async with asyncio.timeout(NAME_S):
            found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return Unlearned(f"the name {url.host} isn't known here: is this machine on the authority's private network?")
    return Door(url.host, tuple(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found)))


async def public_addresses(name: str) -> list[str]:
    """Return the public addresses that a name resolves to; none if the name isn't known."""
    door = await look_up(Url("https", name, 443, ""))
    return [] if isinstance(door, Unlearned) else [each for each in door.addresses if ip_address(each).is_global]


async def places(app: str) -> list[KnownMachine] | Unlearned:
    """Return the machines of an app, started or not, as the private network's resolver lists them."""
    texts = await _resolve(f"all.vms.{app}.internal", "TXT")
    if isinstance(texts, Unlearned):
        return texts
    return read_places(texts)


def read_places(texts: Sequence[str]) -> list[KnownMachine]:
    """Return the machines that a resolver's texts list.

    >>> read_places(["148e21 iad,3d8d41 ams"])
    [KnownMachine(machine='148e21', region='iad'), KnownMachine(machine='3d8d41', region='ams')]
    """
    words = [each.split() for text in texts for each in text.split(",")]
    return [KnownMachine(*each) for each in words if len(each) == 2 and all(map(_NAME, each))]


async def knocks(app: str, found: Sequence[KnownMachine], ports: Sequence[int]) -> list[Knock]:
    """Send a request past the proxy to every machine that has an address, at each port."""
    return [
        each
        for of_one in await asyncio.gather(*(_knocks(app, place, ports) for place in found))
        for each in of_one
    ]  # fmt: skip


async def survey(asker: Asker, urls: Sequence[Url], found: Sequence[KnownMachine] | Absent) -> list[SeenMachine]:
    """Ask every known machine for its status; if ``found`` is absent, ask the machine at each URL.

    During a takeover, machines report different heads, so all are asked again, at most ``TIMES`` times in total. If a
    machine doesn't answer, all are asked once more, because a proxy may still have an old connection to a machine that
    was restarted.
    """
    seen: list[SeenMachine] = []
    for attempt in range(TIMES):
        if attempt:
            await asyncio.sleep(AGAIN_S)
        if isinstance(found, Absent):
            seen = list(await asyncio.gather(*(_ask(asker, url, None) for url in urls)))
        else:
            seen = list(await asyncio.gather(*(_ask(asker, urls[0], place) for place in found)))
        if alike(seen) and (attempt or not any(map(_unreached, seen))):
            break
    return seen


def _unreached(seen: SeenMachine) -> bool:
    return isinstance(seen.came, NoAnswer) and seen.came.reason is NoAnswerReason.UNREACHED


async def _ask(asker: Asker, url: Url, place: KnownMachine | None) -> SeenMachine:
    came = await asker.ask(url, {} if place is None else {ONE: place.machine}, timeout_ms=ASK_MS)
    if place is not None:
        if isinstance(came, Answered) and came.report.machine != place.machine:
            # A request is replayed to the name that a machine reports. If that name is wrong, the replay can't arrive.
            came = NoAnswer(
                NoAnswerReason.UNREACHED, f"the answer is from a machine with the name {came.report.machine}"
            )
        return SeenMachine(place.machine, place.region, came)
    return (
        SeenMachine(came.report.machine, came.report.region, came)
        if isinstance(came, Answered)
        else SeenMachine(str(url), "", came)
    )


async def _knocks(app: str, place: KnownMachine, ports: Sequence[int]) -> list[Knock]:
    addresses = await _resolve(f"{place.machine}.vm.{app}.internal", "AAAA")
    if isinstance(addresses, Unlearned):
        return []  # A machine that isn't started has no address.
    urls = [Url("http", address, port, "") for address in addresses for port in ports]
    return list(await asyncio.gather(*(_knock(place.machine, url) for url in urls)))


async def _knock(machine: str, url: Url) -> Knock:
    """Send a request without attestation. An answer of any kind is a fault."""
    headers = {"content-type": "application/octet-stream"}
    came = await http.ask("POST", url, api.VERIFY, headers=headers, body=b"", timeout_ms=KNOCK_MS)
    if isinstance(came, http.Response):
        return Knock(machine, url.host_header, Came.ANSWER, f"HTTP {came.status}")
    return Knock(machine, url.host_header, Came.REFUSAL if came.refused else Came.NOTHING, came.why)


async def _resolve(name: str, kind: str) -> list[str] | Unlearned:
    try:
        answer = await dns.asyncresolver.Resolver().resolve(f"{name}.", kind, lifetime=NAME_S)
    except (dns.resolver.NoResolverConfiguration, dns.exception.DNSException, OSError) as error:
        return Unlearned(f"{name} isn't known here ({type(error).__name__})")
    return [
        b"".join(record.strings).decode("ascii", "replace") if kind == "TXT" else str(record.address)
        for record in answer
    ]  # fmt: skip
