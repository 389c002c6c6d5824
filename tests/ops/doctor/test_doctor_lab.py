"""``tkdb doctor`` in the lab: a healthy authority passes, and each injected fault fails with its reason.

Real machines run in three regions behind the stand-in for flycast. The doctor runs as a caller in a fourth region.
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
from tests.ops.doctor.doctor_report import DoctorReport
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


class FaultyLab(Lab):
    """A lab whose machines can get another environment, or a skewed clock, at their next start."""

    injected: dict[str, dict[str, str]]
    skewed_s: dict[str, int]

    def _serve(self, machine: VirtualMachine) -> Command:
        command = super()._serve(machine)
        timings = {"TKDB_DRAIN_MS": "0", "TKDB_LEASE_MS": "3000"}
        environment = {**command.environment, **timings, **self.injected.get(machine.id, {})}
        arguments = list(command.arguments)
        if machine.id in self.skewed_s:
            arguments[1:3] = [str(SKEWED), str(self.skewed_s[machine.id])]
        return Command(arguments, environment)


class LabRunner:
    """A lab, and the doctor in it, for code that isn't asynchronous."""

    def __init__(self, folder: Path, regions: tuple[str, ...], *, isolated: bool = True) -> None:
        self.lab = FaultyLab(folder, regions, ("sin",), isolated=isolated)
        self.lab.injected, self.lab.skewed_s = {}, {}
        self._background = Background("runner")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._background.do(work)

    def doctor(self, *arguments: str, **environment: str) -> DoctorReport:
        """Run ``tkdb doctor`` as a caller, with more variables."""
        assignments = [f"{name}={value}" for name, value in environment.items()]
        command = ["env", *assignments, sys.executable, "-m", "tkdb.cli", "doctor", "--json", *arguments]
        done = self.do(self.lab.run("sin", command))
        return DoctorReport(done.code, json.loads(done.output))

    def until_healthy(self) -> None:
        self.until(lambda: {each.health for each in self.do(self.lab.status())} == {"ok"})
        seen = {machine.id for machine in self.lab.flycast.machines.values()}
        self.until(lambda: self.do(self.lab.flycast.seen("sin")) == seen)

    def until(self, reached: Callable[[], bool]) -> None:
        until(reached, lambda: self.do(self.lab.status()))

    def inject(self, name: str, *, skewed_s: int | None = None, **environment: str) -> None:
        """Restart a machine with a fault."""
        self.lab.injected[name] = environment
        if skewed_s is not None:
            self.lab.skewed_s[name] = skewed_s
        self._restart(name)

    async def stall_store(self, region: str) -> None:
        """Stall all traffic between a region and the object store."""
        self.lab.gates[region].change(fault=StoreFault.STALL)

    def heal(self) -> None:
        """Undo all injected faults."""
        self.do(self.lab.heal())
        changed = {*self.lab.injected, *self.lab.skewed_s}
        changed |= {name for name, machine in self.lab.flycast.machines.items() if not machine.running}
        self.lab.injected, self.lab.skewed_s = {}, {}
        for name in changed:
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
def shared_runner(needs_isolated_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabRunner]:
    with claimed(tmp_path_factory.mktemp("lab") / "lab") as folder, LabRunner(folder, REGIONS) as runner:
        yield runner


@pytest.fixture
def runner(shared_runner: LabRunner) -> Iterator[LabRunner]:
    """A healthy lab. All injected faults are undone after the test."""
    yield shared_runner
    shared_runner.heal()


CALLER_CHECKS = {
    "private-address", "past-the-proxy", "attested", "identity", "machines-answer", "regions", "one-cluster",
    "one-version", "clocks",
}  # fmt: skip
"""The checks that a caller can make."""


def operator_environment(runner: LabRunner) -> dict[str, str]:
    """Return the variables that only an operator has: those of the bucket, and the sealing secret."""
    wanted = ("TKDB_SEAL_KEYS", "BUCKET_NAME", "AWS_")
    return {name: value for name, value in runner.lab.environment(REGIONS[0]).items() if name.startswith(wanted)}


def test_a_healthy_lab_passes_every_check_of_a_caller(runner: LabRunner) -> None:
    report = runner.doctor()
    assert (report.code, report.outcomes("passed")) == (0, CALLER_CHECKS), report.document
    assert not report.outcomes("failed") | report.outcomes("unknown")
    assert report.document["ok"] is True
    assert report.by_check["past-the-proxy"]["found"] == "port 8080 of tkdb-iad-1, tkdb-ams-1 and tkdb-syd-1"


def test_a_direct_request_is_answered_only_with_attestation(runner: LabRunner) -> None:
    async def ask() -> str:
        async with await runner.lab.direct("tkdb-syd-1") as attested:
            machine = (await attested.status()).machine
        url = await runner.lab.flycast.direct("tkdb-syd-1")
        async with AsyncClient(url, runner.lab.keys.identity, timeout_ms=1_000) as unattested:
            with pytest.raises(Unavailable, match="a plain HTTP 403"):
                await unattested.status()
        return machine

    assert runner.do(ask()) == "tkdb-syd-1"


def test_an_operator_also_checks_the_bucket(runner: LabRunner) -> None:
    report = runner.doctor(**operator_environment(runner))
    bucket_checks = {"bucket-fit", "bucket-closed", "bucket-head"}
    assert (report.code, report.outcomes("passed")) == (0, CALLER_CHECKS | bucket_checks), report.document
    assert "4 clocks" in report.by_check["clocks"]["found"]


def test_a_machine_that_listens_on_6pn_is_found_past_the_proxy(runner: LabRunner) -> None:
    runner.inject("tkdb-syd-1", TKDB_BIND="[::]:8080", TKDB_FLY_SRC="off")
    report = runner.doctor()
    assert report.code == 1
    found = report.failure("past-the-proxy")
    assert found.startswith("tkdb-syd-1 answers at [fdaa:")
    assert found.endswith("]:8080, past the proxy (HTTP 400)")
    assert "TKDB_BIND=0.0.0.0:8080" in report.by_check["past-the-proxy"]["try"]


def test_a_machine_that_listens_on_6pn_fails_even_with_attestation(runner: LabRunner) -> None:
    runner.inject("tkdb-syd-1", TKDB_BIND="[::]:8080")
    assert "past the proxy (HTTP 403)" in runner.doctor().failure("past-the-proxy")


def test_a_machine_that_requires_no_attestation_fails(runner: LabRunner) -> None:
    runner.inject("tkdb-ams-1", TKDB_FLY_SRC="off")
    report = runner.doctor()
    assert report.code == 1
    assert report.outcomes("failed") == {"attested"}
    assert report.failure("attested") == "tkdb-ams-1 in ams answers requests without Fly-Src"


def test_a_region_that_is_down_fails(runner: LabRunner) -> None:
    runner.do(runner.lab.machine("syd").kill())
    report = runner.doctor()
    assert report.code == 1
    assert report.outcomes("failed") == {"machines-answer"}
    assert report.failure("machines-answer").startswith("tkdb-syd-1 in syd doesn't answer: ")


def test_a_replica_without_the_object_store_fails(runner: LabRunner) -> None:
    runner.do(runner.stall_store("syd"))
    runner.until(lambda: any(each.health == "faulty" for each in runner.do(runner.lab.status())))
    runner.until(lambda: "tkdb-syd-1" not in runner.do(runner.lab.flycast.seen("sin")))
    assert "tkdb-syd-1 in syd doesn't answer" in runner.doctor().failure("machines-answer")


def test_another_authority_fails_the_identity_check(runner: LabRunner) -> None:
    other = AuthorityIdentity(runner.lab.keys.identity.name, (AuthoritySecret.generate(os.urandom).public,))
    report = runner.doctor(TKDB_AUTHORITY=other.text())
    assert report.code == 1
    found = report.failure("identity")
    assert "tkdb-syd-1 in syd: it can't open a request that is sealed to this name and key" in found
    renamed = AuthorityIdentity("tkdb.elsewhere", runner.lab.keys.identity.keys)
    assert "can't open" in runner.doctor(TKDB_AUTHORITY=renamed.text()).failure("identity")


def test_one_machine_with_another_key_fails_the_identity_check(runner: LabRunner) -> None:
    runner.inject("tkdb-ams-1", TKDB_AUTHORITY_KEY=AuthoritySecret.generate(os.urandom).text())
    found = runner.doctor().failure("identity")
    assert found == "tkdb-ams-1 in ams: it can't open a request that is sealed to this name and key"


def test_a_machine_of_another_cluster_fails(runner: LabRunner) -> None:
    ours = runner.lab.settings
    outside = Bucket.parse({**ours, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port_of(runner)}"})
    made = asyncio.run(object_store.make_bucket(object_store.Seaweed(outside.endpoint.port), "another"))
    environment = runner.lab.keys.settings(made, REGIONS) | {"TKDB_DB": str(runner.lab.folder / "another.db")}
    subprocess.run(
        [sys.executable, "-m", "tkdb.cli", "init"],
        env={"PATH": os.environ["PATH"], **environment}, check=True, capture_output=True,
    )  # fmt: skip
    runner.inject("tkdb-syd-1", BUCKET_NAME="another", TKDB_DB=str(runner.lab.folder / "another-syd.db"))
    runner.until(lambda: [each.role for each in runner.do(runner.lab.status())].count("primary") == 2)
    report = runner.doctor(**operator_environment(runner))
    found = report.failure("one-cluster")
    assert "there are several journals: " in found
    assert "tkdb-iad-1 and tkdb-syd-1 are all primary" in found
    assert "tkdb-syd-1 in syd follows journal " in report.failure("bucket-head")


def port_of(runner: LabRunner) -> int:
    return int(runner.lab.settings["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])


@pytest.mark.parametrize(("skewed_s", "expected"), [(8, "8.0 s ahead of"), (-15, "15.0 s behind")])
def test_a_skewed_clock_of_a_machine_fails(runner: LabRunner, skewed_s: int, expected: str) -> None:
    runner.inject("tkdb-ams-1", skewed_s=skewed_s)
    report = runner.doctor()
    found = report.failure("clocks")
    assert found.startswith("the clock of tkdb-ams-1 in ams is ")
    direction = expected.partition(" s ")[2]
    assert found.endswith(f" s {direction} this caller's")
    assert abs(float(found.removeprefix("the clock of tkdb-ams-1 in ams is ").split()[0]) - abs(skewed_s)) < 2


def test_if_all_clocks_differ_the_callers_clock_fails(runner: LabRunner) -> None:
    command = ["env", sys.executable, str(SKEWED), "20", "doctor", "--json"]
    done = runner.do(runner.lab.run("sin", command))
    report = DoctorReport(done.code, json.loads(done.output))
    assert report.failure("clocks").startswith("all clocks differ from this caller's")
    assert report.by_check["clocks"]["try"] == "set this caller's clock"


def test_on_loopback_checks_without_a_proxy_are_skipped_and_the_others_pass(
    needs_isolated_lab: None, tmp_path: Path
) -> None:
    with claimed(tmp_path / "lab") as folder, LabRunner(folder, ("iad",), isolated=False) as runner:
        report = runner.doctor()
        assert (report.code, report.outcomes("failed")) == (0, set()), report.document
        assert report.by_check["attested"] == {
            "check": "attested",
            "outcome": "skipped",
            "expected": "only callers that the proxy attests are answered",
            "found": "TKDB_URL isn't a .flycast name, and elsewhere nobody attests callers",
            "try": "",
        }
        assert "past-the-proxy" in report.outcomes("skipped")


def test_a_single_region_fails_and_a_disallowed_caller_gets_the_reason(
    needs_isolated_lab: None, tmp_path: Path
) -> None:
    with claimed(tmp_path / "lab") as folder, LabRunner(folder, ("iad",)) as runner:
        assert runner.doctor().failure("regions") == "the only machine is in iad"
        runner.inject("tkdb-iad-1", TKDB_FLY_SRC_APPS="web")
        report = runner.doctor()
        assert "the calling app or organization isn't allowed" in report.failure("machines-answer")
        assert "TKDB_FLY_SRC_APPS" in report.by_check["machines-answer"]["try"]
        assert "attested" in report.outcomes("passed")
        assert "identity" in report.outcomes("unknown")
