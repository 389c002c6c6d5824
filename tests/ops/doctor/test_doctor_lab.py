"""``tkdb doctor`` in the lab: green where all is well, red with its reason for each fault that is planted.

Real machines in three regions behind the real stand-in, looked at from a caller's place in a fourth.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from tests.background import Background
from tests.ops.doctor.examined import Examined
from tests.waiting import until
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret
from tkdb.errors import Unavailable
from tkdb_client import AsyncClient
from tkdb_ops.flycast.machines import Command, VirtualMachine
from tkdb_ops.lab import object_store
from tkdb_ops.lab.folder import claimed
from tkdb_ops.lab.lab import Lab
from tkdb_ops.lab.store_proxy import StoreFault
from tkdb_replication.bucket.settings import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SKEWED = Path(__file__).with_name("skewed.py")
REGIONS = ("iad", "ams", "syd")

T = TypeVar("T")


class Faulty(Lab):
    """A lab whose machines can be given another environment, or a clock of their own, at their next start."""

    planted: dict[str, dict[str, str]]
    skewed_s: dict[str, int]

    def _serve(self, machine: VirtualMachine) -> Command:
        command = super()._serve(machine)
        quick = {"TKDB_DRAIN_MS": "0", "TKDB_LEASE_MS": "3000"}
        environment = {**command.environment, **quick, **self.planted.get(machine.id, {})}
        arguments = list(command.arguments)
        if machine.id in self.skewed_s:
            arguments[1:3] = [str(SKEWED), str(self.skewed_s[machine.id])]
        return Command(arguments, environment)


class Bed:
    """A lab, and the doctor at it, from code that isn't asynchronous."""

    def __init__(self, folder: Path, regions: tuple[str, ...], *, isolated: bool = True) -> None:
        self.lab = Faulty(folder, regions, ("sin",), isolated=isolated)
        self.lab.planted, self.lab.skewed_s = {}, {}
        self._background = Background("bed")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._background.do(work)

    def doctor(self, *arguments: str, **environment: str) -> Examined:
        """Run it at the caller's place, with further variables."""
        given = [f"{name}={value}" for name, value in environment.items()]
        words = ["env", *given, sys.executable, "-m", "tkdb.cli", "doctor", "--json", *arguments]
        done = self.do(self.lab.run("sin", words))
        return Examined(done.code, json.loads(done.output))

    def until_healthy(self) -> None:
        self.until(lambda: {each.health for each in self.do(self.lab.status())} == {"ok"})
        seen = {machine.id for machine in self.lab.flycast.machines.values()}
        self.until(lambda: self.do(self.lab.flycast.seen("sin")) == seen)

    def until(self, reached: Callable[[], bool]) -> None:
        until(reached, lambda: self.do(self.lab.status()))

    def plant(self, name: str, *, skewed_s: int | None = None, **environment: str) -> None:
        """Start a machine anew, with a fault."""
        self.lab.planted[name] = environment
        if skewed_s is not None:
            self.lab.skewed_s[name] = skewed_s
        self._restart(name)

    async def without_store(self, region: str) -> None:
        """Nothing of the object store is heard in a region any more."""
        self.lab.gates[region].change(fault=StoreFault.STALL)

    def heal(self) -> None:
        """Undo all that was planted."""
        self.do(self.lab.heal())
        again = {*self.lab.planted, *self.lab.skewed_s}
        again |= {name for name, machine in self.lab.flycast.machines.items() if not machine.running}
        self.lab.planted, self.lab.skewed_s = {}, {}
        for name in again:
            self._restart(name)
        self.until_healthy()

    def _restart(self, name: str) -> None:
        machine = self.lab.machine(name)
        self.do(machine.stop())
        self.do(machine.start())
        self.until(lambda: machine.id in self.do(self.lab.flycast.seen("sin")))

    def __enter__(self) -> Self:
        self._background.start()
        self.do(self.lab.__aenter__())
        self.until_healthy()
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.lab.__aexit__(None, None, None))
        self._background.stop()


@pytest.fixture(scope="module")
def standing(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with claimed(tmp_path_factory.mktemp("bed") / "lab") as folder, Bed(folder, REGIONS) as bed:
        yield bed


@pytest.fixture
def bed(standing: Bed) -> Iterator[Bed]:
    """The lab, whole; whatever a test plants is undone after it."""
    yield standing
    standing.heal()


CALLERS = {
    "private-address", "past-the-proxy", "attested", "identity", "machines-answer", "regions", "one-cluster",
    "one-version", "clocks",
}  # fmt: skip
"""What is seen from a caller's place."""


def operator(bed: Bed) -> dict[str, str]:
    """The variables of the lab's operator: the bucket, and the sealing secret."""
    wanted = ("TKDB_SEAL_KEYS", "BUCKET_NAME", "AWS_")
    return {name: value for name, value in bed.lab.environment(REGIONS[0]).items() if name.startswith(wanted)}


def test_a_healthy_lab_is_green_from_a_callers_place(bed: Bed) -> None:
    examined = bed.doctor()
    assert (examined.code, examined.outcomes("passed")) == (0, CALLERS), examined.document
    assert not examined.outcomes("failed") | examined.outcomes("unknown")
    assert examined.document["ok"] is True
    assert examined.by_check["past-the-proxy"]["found"] == "port 8080 of tkdb-iad-1, tkdb-ams-1 and tkdb-syd-1"


def test_beside_the_proxy_only_who_says_what_it_would_have_said_is_answered(bed: Bed) -> None:
    async def ask() -> str:
        async with await bed.lab.direct("tkdb-syd-1") as attested:
            machine = (await attested.status()).machine
        url = await bed.lab.flycast.direct("tkdb-syd-1")
        async with AsyncClient(url, bed.lab.keys.identity, timeout_ms=1_000) as stranger:
            with pytest.raises(Unavailable, match="a plain HTTP 403"):
                await stranger.status()
        return machine

    assert bed.do(ask()) == "tkdb-syd-1"


def test_the_operator_sees_the_bucket_too(bed: Bed) -> None:
    examined = bed.doctor(**operator(bed))
    of_bucket = {"bucket-fit", "bucket-closed", "bucket-head"}
    assert (examined.code, examined.outcomes("passed")) == (0, CALLERS | of_bucket), examined.document
    assert "4 clocks" in examined.by_check["clocks"]["found"]


def test_a_machine_that_listens_on_6pn_is_found_past_the_proxy(bed: Bed) -> None:
    bed.plant("tkdb-syd-1", TKDB_BIND="[::]:8080", TKDB_FLY_SRC="off")
    examined = bed.doctor()
    assert examined.code == 1
    said = examined.found("past-the-proxy")
    assert said.startswith("tkdb-syd-1 answers at [fdaa:")
    assert said.endswith("]:8080, past the proxy (HTTP 400)")
    assert "TKDB_BIND=0.0.0.0:8080" in examined.by_check["past-the-proxy"]["try"]


def test_attestation_past_the_proxy_is_no_excuse_for_listening_there(bed: Bed) -> None:
    bed.plant("tkdb-syd-1", TKDB_BIND="[::]:8080")
    assert "past the proxy (HTTP 403)" in bed.doctor().found("past-the-proxy")


def test_a_machine_that_requires_no_attestation_is_named(bed: Bed) -> None:
    bed.plant("tkdb-ams-1", TKDB_FLY_SRC="off")
    examined = bed.doctor()
    assert examined.code == 1
    assert examined.outcomes("failed") == {"attested"}
    assert examined.found("attested") == "tkdb-ams-1 in ams answers requests without Fly-Src"


def test_a_region_that_is_down_is_missed(bed: Bed) -> None:
    bed.do(bed.lab.machine("syd").kill())
    examined = bed.doctor()
    assert examined.code == 1
    assert examined.outcomes("failed") == {"machines-answer"}
    assert examined.found("machines-answer").startswith("tkdb-syd-1 in syd doesn't answer: ")


def test_a_replica_that_cannot_keep_up_is_missed(bed: Bed) -> None:
    bed.do(bed.without_store("syd"))
    bed.until(lambda: any(each.health == "faulty" for each in bed.do(bed.lab.status())))
    bed.until(lambda: "tkdb-syd-1" not in bed.do(bed.lab.flycast.seen("sin")))
    assert "tkdb-syd-1 in syd doesn't answer" in bed.doctor().found("machines-answer")


def test_another_authority_is_not_taken_for_ours(bed: Bed) -> None:
    other = AuthorityIdentity(bed.lab.keys.identity.name, (AuthoritySecret.generate(os.urandom).public,))
    examined = bed.doctor(TKDB_AUTHORITY=other.text())
    assert examined.code == 1
    found = examined.found("identity")
    assert "tkdb-syd-1 in syd: it can't open a request that is sealed to this name and key" in found
    renamed = AuthorityIdentity("tkdb.elsewhere", bed.lab.keys.identity.keys)
    assert "can't open" in bed.doctor(TKDB_AUTHORITY=renamed.text()).found("identity")


def test_one_machine_with_another_key_is_told_apart(bed: Bed) -> None:
    bed.plant("tkdb-ams-1", TKDB_AUTHORITY_KEY=AuthoritySecret.generate(os.urandom).text())
    found = bed.doctor().found("identity")
    assert found == "tkdb-ams-1 in ams: it can't open a request that is sealed to this name and key"


def test_a_machine_of_another_cluster_is_told_apart(bed: Bed) -> None:
    ours = bed.lab.settings
    outside = Bucket.parse({**ours, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port_of(bed)}"})
    made = asyncio.run(object_store.make_bucket(object_store.Seaweed(outside.endpoint.port), "another"))
    environment = bed.lab.keys.settings(made, REGIONS) | {"TKDB_DB": str(bed.lab.folder / "another.db")}
    subprocess.run(
        [sys.executable, "-m", "tkdb.cli", "init"],
        env={"PATH": os.environ["PATH"], **environment}, check=True, capture_output=True,
    )  # fmt: skip
    bed.plant("tkdb-syd-1", BUCKET_NAME="another", TKDB_DB=str(bed.lab.folder / "another-syd.db"))
    bed.until(lambda: [each.role for each in bed.do(bed.lab.status())].count("primary") == 2)
    examined = bed.doctor(**operator(bed))
    found = examined.found("one-cluster")
    assert "there are several journals: " in found
    assert "tkdb-iad-1 and tkdb-syd-1 are all primary" in found
    assert "tkdb-syd-1 in syd follows journal " in examined.found("bucket-head")


def port_of(bed: Bed) -> int:
    return int(bed.lab.settings["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])


@pytest.mark.parametrize(("skewed_s", "said"), [(8, "8.0 s ahead of"), (-15, "15.0 s behind")])
def test_a_clock_that_is_off_is_named(bed: Bed, skewed_s: int, said: str) -> None:
    bed.plant("tkdb-ams-1", skewed_s=skewed_s)
    examined = bed.doctor()
    found = examined.found("clocks")
    assert found.startswith("the clock of tkdb-ams-1 in ams is ")
    way = said.partition(" s ")[2]
    assert found.endswith(f" s {way} this caller's")
    assert abs(float(found.removeprefix("the clock of tkdb-ams-1 in ams is ").split()[0]) - abs(skewed_s)) < 2


def test_where_every_clock_is_off_it_is_the_callers(bed: Bed) -> None:
    words = ["env", sys.executable, str(SKEWED), "20", "doctor", "--json"]
    done = bed.do(bed.lab.run("sin", words))
    examined = Examined(done.code, json.loads(done.output))
    assert examined.found("clocks").startswith("all clocks differ from this caller's")
    assert examined.by_check["clocks"]["try"] == "set this caller's clock"


def test_what_is_missing_on_loopback_is_said_and_the_rest_is_green(able: None, tmp_path: Path) -> None:
    with claimed(tmp_path / "lab") as folder, Bed(folder, ("iad",), isolated=False) as bed:
        examined = bed.doctor()
        assert (examined.code, examined.outcomes("failed")) == (0, set()), examined.document
        assert examined.by_check["attested"] == {
            "check": "attested",
            "outcome": "skipped",
            "expected": "only callers that the proxy attests are answered",
            "found": "TKDB_URL isn't a .flycast name, and elsewhere nobody attests callers",
            "try": "",
        }
        assert "past-the-proxy" in examined.outcomes("skipped")


def test_a_single_region_is_named_and_a_caller_that_may_not_call_is_told_so(able: None, tmp_path: Path) -> None:
    with claimed(tmp_path / "lab") as folder, Bed(folder, ("iad",)) as bed:
        assert bed.doctor().found("regions") == "the only machine is in iad"
        bed.plant("tkdb-iad-1", TKDB_FLY_SRC_APPS="web")
        examined = bed.doctor()
        assert "the calling app or organization isn't allowed" in examined.found("machines-answer")
        assert "TKDB_FLY_SRC_APPS" in examined.by_check["machines-answer"]["try"]
        assert "attested" in examined.outcomes("passed")
        assert "identity" in examined.outcomes("unknown")
