"""tkdb behind the stand-in: real machines in three regions, a real object store, and fly-replay between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.node import COMMAND, ROOT, Keys
from tests.ops.flycast.stand_in import StandIn
from tests.regions.cluster import variables
from tests.replication.seaweed import Seaweed, make_bucket
from tests.waiting import until
from tkdb import api
from tkdb.errors import Conflict, RevokedToken, TkdbError, Unavailable
from tkdb_client import Client
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App
from tkdb_ops.flycast.machines import Command, VirtualMachine

REGIONS = ("iad", "ams", "syd")


class Cluster:
    """Three machines of tkdb, with the first one as primary, and a caller in Singapore."""

    def __init__(self, server: Seaweed) -> None:
        self.keys = Keys()
        self.bucket = make_bucket(server)
        self.port = server.port
        self.endpoint = ""
        self.stand_in = StandIn(
            Flycast({App("tkdb", REGIONS): self.serve}, clients=["sin"], isolated=True, start=False)
        )

    def serve(self, machine: VirtualMachine) -> Command:
        environment = self.keys.environment(machine.folder / "tkdb.db", **variables(self.bucket), **self.shared())
        environment |= {"AWS_ENDPOINT_URL_S3": self.endpoint, "TKDB_BIND": str(machine.bind), "PYTHONPATH": str(ROOT)}
        return Command(COMMAND, environment)

    def shared(self) -> dict[str, str]:
        return {"TKDB_LEASE_MS": "3000", "TKDB_PRIMARY_REGIONS": ",".join(REGIONS)}

    def create(self, folder: Path) -> None:
        """Run `tkdb init`, as an operator does, and start the machines."""
        environment = self.keys.environment(folder / "operator.db", **variables(self.bucket), **self.shared())
        subprocess.run(
            [sys.executable, "-m", "tkdb.cli", "init"], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        self.endpoint = self.stand_in.do(self.stand_in.flycast.expose("store", "iad", self.port))
        self.stand_in.do(self.stand_in.machine("tkdb-iad-1").start())
        self.stand_in.do(self.stand_in.flycast.start())

    def client(self) -> Client:
        return Client(self.stand_in.do(self.stand_in.flycast.door("sin")), self.keys.identity, signer=self.keys.signer)

    def status(self) -> api.StatusReport | None:
        try:
            with self.client() as client:
                return client.status()
        except TkdbError:
            return None


def is_created(client: Client, organization: str) -> bool:
    """Return True if the organization exists: created by this call, or by one whose outcome was unknown."""
    try:
        client.create_organization(organization)
    except Conflict:
        return True
    except Unavailable:
        return False
    return True


@pytest.fixture
def cluster(isolating: None, s3_server: Seaweed, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(s3_server)
    with cluster.stand_in:
        cluster.create(tmp_path)
        yield cluster


def test_only_allowed_apps_get_an_answer(isolating: None) -> None:
    keys = Keys()

    def serve(machine: VirtualMachine, *, allowed: str) -> Command:
        attested = {"TKDB_FLY_SRC": "require", "TKDB_FLY_SRC_APPS": allowed, "TKDB_FLY_SRC_ORGS": "lab"}
        environment = keys.environment(machine.folder / "tkdb.db", **attested)
        return Command(COMMAND, environment | {"TKDB_BIND": str(machine.bind), "PYTHONPATH": str(ROOT)})

    allowed = {"open": "client", "closed": "other"}
    apps = {App(app, ("iad",)): partial(serve, allowed=name) for app, name in allowed.items()}
    with StandIn(Flycast(apps, clients=["iad"], isolated=True)) as stand_in:
        doors = {app: stand_in.do(stand_in.flycast.door("iad", app)) for app in allowed}
        with Client(doors["open"], keys.identity, signer=keys.signer) as client:
            assert client.status().machine == "open-iad-1"
        assert httpx.post(doors["closed"] + "/v1/verify").json()["type"] == "urn:tkdb:problem:not-attested"
        assert '"event":"not attested"' in stand_in.flycast.log("closed-iad-1")


@pytest.mark.slow
def test_a_write_at_a_replica_is_replayed_to_the_primary_and_continues_after_a_failover(cluster: Cluster) -> None:
    stand_in = cluster.stand_in
    status = cluster.status()
    assert status is not None
    assert (status.machine, status.role) == ("tkdb-syd-1", "replica")
    with cluster.client() as client:
        client.create_organization("acme")  # This write goes from Singapore to Sydney, and is replayed to Virginia.
        token = client.mint("acme")
        assert client.verify(token).organization == "acme"
        assert "replayed" in stand_in.flycast.log("tkdb-syd-1")
        stand_in.do(stand_in.machine("tkdb-iad-1").kill())
        assert client.verify(token).organization == "acme"  # Reads continue without a primary.
        until(lambda: is_created(client, "initech"))  # Writes continue once another machine is primary.
        client.revoke(token)
        with pytest.raises(RevokedToken):
            client.verify(token)
    status = cluster.status()
    assert status is not None
    assert status.machine == "tkdb-syd-1"
    assert stand_in.do(stand_in.flycast.seen("sin")) >= {"tkdb-ams-1", "tkdb-syd-1"}
