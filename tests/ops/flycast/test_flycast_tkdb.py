"""tkdb itself behind the stand-in: real machines in three regions, a real object store, and fly-replay between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.node import COMMAND, ROOT, Keys
from tests.ops.flycast.standing import Standing
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
    """Three machines of tkdb, the first one primary; a caller in Singapore."""

    def __init__(self, server: Seaweed) -> None:
        self.keys = Keys()
        self.bucket = make_bucket(server)
        self.port = server.port
        self.endpoint = ""
        self.standing = Standing(
            Flycast({App("tkdb", REGIONS): self.serve}, clients=["sin"], isolated=True, start=False)
        )

    def serve(self, machine: VirtualMachine) -> Command:
        environment = self.keys.environment(machine.folder / "tkdb.db", **variables(self.bucket), **self.shared())
        environment |= {"AWS_ENDPOINT_URL_S3": self.endpoint, "TKDB_BIND": str(machine.bind), "PYTHONPATH": str(ROOT)}
        return Command(COMMAND, environment)

    def shared(self) -> dict[str, str]:
        return {"TKDB_LEASE_MS": "3000", "TKDB_PRIMARY_REGIONS": ",".join(REGIONS)}

    def found(self, folder: Path) -> None:
        """Found the cluster, as its operator does; then start its machines."""
        environment = self.keys.environment(folder / "operator.db", **variables(self.bucket), **self.shared())
        subprocess.run(
            [sys.executable, "-m", "tkdb.cli", "init"], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        self.endpoint = self.standing.do(self.standing.flycast.expose("store", "iad", self.port))
        self.standing.do(self.standing.machine("tkdb-iad-1").start())
        self.standing.do(self.standing.flycast.start())

    def client(self) -> Client:
        return Client(self.standing.do(self.standing.flycast.door("sin")), self.keys.identity, signer=self.keys.signer)

    def status(self) -> api.StatusReport | None:
        try:
            with self.client() as client:
                return client.status()
        except TkdbError:
            return None


def made(client: Client, organization: str) -> bool:
    """Whether an organization could be made now, or was made by an attempt whose outcome wasn't known."""
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
    with cluster.standing:
        cluster.found(tmp_path)
        yield cluster


def test_only_the_apps_that_are_allowed_get_through(isolating: None) -> None:
    keys = Keys()

    def serve(machine: VirtualMachine, *, allowed: str) -> Command:
        attested = {"TKDB_FLY_SRC": "require", "TKDB_FLY_SRC_APPS": allowed, "TKDB_FLY_SRC_ORGS": "lab"}
        environment = keys.environment(machine.folder / "tkdb.db", **attested)
        return Command(COMMAND, environment | {"TKDB_BIND": str(machine.bind), "PYTHONPATH": str(ROOT)})

    allowed = {"open": "client", "closed": "other"}
    apps = {App(app, ("iad",)): partial(serve, allowed=name) for app, name in allowed.items()}
    with Standing(Flycast(apps, clients=["iad"], isolated=True)) as standing:
        doors = {app: standing.do(standing.flycast.door("iad", app)) for app in allowed}
        with Client(doors["open"], keys.identity, signer=keys.signer) as client:
            assert client.status().machine == "open-iad-1"
        assert httpx.post(doors["closed"] + "/v1/verify").json()["type"] == "urn:tkdb:problem:not-attested"
        assert '"event":"not attested"' in standing.flycast.log("closed-iad-1")


@pytest.mark.slow
def test_a_write_at_a_replica_is_replayed_to_the_primary_and_comes_back_while_there_is_none(cluster: Cluster) -> None:
    standing = cluster.standing
    status = cluster.status()
    assert status is not None
    assert (status.machine, status.role) == ("tkdb-syd-1", "replica")
    with cluster.client() as client:
        client.create_organization("acme")  # a write: from Singapore to Sydney, and replayed to Virginia
        token = client.mint("acme")
        assert client.verify(token).organization == "acme"
        assert "replayed" in standing.flycast.log("tkdb-syd-1")
        standing.do(standing.machine("tkdb-iad-1").kill())
        assert client.verify(token).organization == "acme"  # reads go on meanwhile
        until(lambda: made(client, "initech"))  # and so do writes, once another machine leads
        client.revoke(token)
        with pytest.raises(RevokedToken):
            client.verify(token)
    status = cluster.status()
    assert status is not None
    assert status.machine == "tkdb-syd-1"
    assert standing.do(standing.flycast.seen("sin")) >= {"tkdb-ams-1", "tkdb-syd-1"}
