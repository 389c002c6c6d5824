"""Checks of Fly's records of the app: its addresses are private, and its machines all run and are alike. Pure.

>>> no_public_address([Assignment("fdaa:0:1:0:1::7"), Assignment("66.241.125.9", shared=True)]).found
'66.241.125.9 is public (shared)'
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from tkdb_ops.doctor.configured import differences
from tkdb_ops.doctor.deployment import Assignment, DeployedMachine, Setup
from tkdb_ops.doctor.findings import Absent, Check, Finding, listed
from tkdb_ops.doctor.network import SIXPN

NO_PUBLIC_ADDRESS: Final = Check(
    "no-public-address",
    "every address of the app is private",
    "`fly ips release ADDRESS` for each public one; `fly ips allocate-v6 --private` if there is no private one",
)
HOSTED: Final = Check(
    "hosted",
    "every machine runs, and passes its checks",
    "run `fly machine status ID` for the reason, then `fly machine start`, `uncordon` or `restart`",
)
ALIKE: Final = Check(
    "alike", "all machines run one image, and are configured alike", "`fly deploy` configures them all by fly.toml"
)


def no_public_address(assignments: Sequence[Assignment] | Absent) -> Finding:
    """Judge the app's addresses. Egress addresses are ignored, because they take no connections."""
    if isinstance(assignments, Absent):
        return NO_PUBLIC_ADDRESS.unmade(assignments)
    inward = [each for each in assignments if not each.egress]
    public = [each for each in inward if not _private(each.ip)]
    faults = [f"{each.ip} is public{' (shared)' if each.shared else ''}" for each in public]
    if len(public) == len(inward):
        faults.append("there is no private address")
    return NO_PUBLIC_ADDRESS.judged(faults, listed(each.ip for each in inward))


def hosted(machines: Sequence[DeployedMachine] | Absent) -> Finding:
    """Judge whether the machines can serve. A machine that was stopped because it had no traffic can."""
    if isinstance(machines, Absent):
        return HOSTED.unmade(machines)
    if not machines:
        return HOSTED.failed("the app has no machine", "`fly deploy --no-public-ips --ha=false`")
    faults = []
    for each in machines:
        name = named(each)
        if each.state != "started" and not (each.state == "stopped" and _stops(each)):
            faults.append(f"{name} is {each.state or 'in no state'}")
        if each.host_status != "ok":
            faults.append(f"the host of {name} is {each.host_status}")
        if each.cordoned:
            faults.append(f"{name} is cordoned")
        ill = [check.name for check in each.checks or () if check.status != "passing"]
        if ill and each.state == "started":
            faults.append(f"{name} doesn't pass {listed(ill)}")
    return HOSTED.judged(faults, listed(f"{named(each)} is {each.state}" for each in machines))


def alike(machines: Sequence[DeployedMachine] | Absent, written: Setup | Absent) -> Finding:
    """Judge whether a deployment has reached every machine, and whether it used the given fly.toml, if there is one."""
    if isinstance(machines, Absent):
        return ALIKE.unmade(machines)
    images = dict[str, list[str]]()
    for each in machines:
        images.setdefault(str(each.image_ref), []).append(named(each))
    faults = [] if len(images) < 2 else [
        "several images: " + ", ".join(f"{image[:80]} on {listed(who)}" for image, who in images.items())
    ]  # fmt: skip
    setups = [*([written] if isinstance(written, Setup) else []), *setups_of(machines)]
    faults += [
        f"{each.where} differs from {setups[0].where} in {listed(differing)}"
        for each in setups[1:]
        if (differing := differences(setups[0].config, each.config))
    ]
    return ALIKE.judged(faults, listed(each.where for each in setups))


def setups_of(machines: Sequence[DeployedMachine]) -> list[Setup]:
    """Return the configuration of each machine that has one."""
    return [Setup(named(each), each.setup) for each in machines if each.setup is not None]


def named(machine: DeployedMachine) -> str:
    """Return a machine's name and region in words."""
    return f"{machine.id} in {machine.region}" if machine.region else machine.id


def _private(ip: str) -> bool:
    try:
        return ip_address(ip) in SIXPN
    except ValueError:
        return False


def _stops(machine: DeployedMachine) -> bool:
    services = (machine.setup.services or []) if machine.setup else []
    return any(service.autostop in (True, "stop") for service in services)
