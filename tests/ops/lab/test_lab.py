"""``tkdb lab`` from end to end: real machines in three regions, faults from another terminal, full cleanup."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import TKDB, CommandResult, running, tkdb
from tests.waiting import until
from tkdb_client import Client


class RunningLab:
    """A running lab, controlled with commands as from another terminal."""

    def __init__(self, folder: Path, exports: dict[str, str]) -> None:
        self.folder = folder
        self.exports = exports

    def run(self, *arguments: str) -> CommandResult:
        command, *options = arguments
        return tkdb("lab", command, "--folder", str(self.folder), *options)

    def machines(self) -> dict[str, dict[str, Any]]:
        shown = self.run("status", "--json")
        assert shown.code == 0, shown.err
        return {each["region"]: each for each in json.loads(shown.out)["machines"]}

    def signer(self) -> str:
        return Path(self.exports["TKDB_SIGNER_FILE"]).read_text().strip()

    def client(self) -> Client:
        return Client(self.exports["TKDB_URL"], self.exports["TKDB_AUTHORITY"], signer=self.signer())

    def until_served(self, caller: str, by: str) -> None:
        """Wait until the proxy of the region ``caller`` sends requests only to the region ``by``."""
        until(
            lambda: [region for region, each in self.machines().items() if caller in each["serves"]] == [by],
            self.machines,
        )

    def until_answers(self, client: Client, region: str) -> None:
        until(lambda: client.status().region == region, self.machines)


@pytest.fixture
def lab(needs_isolated_lab: None, tmp_path: Path) -> Iterator[RunningLab]:
    folder = tmp_path / "lab"
    with running("lab", "up", "--json", "--folder", str(folder)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith('{"TKDB_URL"'):
            pytest.fail(line + process.communicate(timeout=60)[1])
        yield RunningLab(folder, json.loads(line))
        process.send_signal(signal.SIGTERM)
        assert (process.wait(60), folder.exists()) == (0, False)


@pytest.mark.slow
def test_a_lab_survives_faults_from_another_terminal(lab: RunningLab) -> None:
    machines = lab.machines()
    assert {region: each["role"] for region, each in machines.items()} == {
        "iad": "primary", "ams": "replica", "syd": "replica"
    }  # fmt: skip
    checked = lab.run("exec", "sin", "--", TKDB, "doctor")
    assert (checked.code, "9 checks passed, 0 failed" in checked.out) == (0, True), checked.out
    with lab.client() as client:
        before = lab.machines()["syd"]["requests"]
        assert client.status().region == "syd"  # Sydney is the nearest region to Singapore.
        assert lab.machines()["syd"]["requests"] == before + 1
        client.create_organization("acme")
        token = client.mint("acme")
        assert client.verify(token).organization == "acme"
        assert lab.run("kill", "syd").code == 0
        assert client.status().region == "ams"
        assert client.verify(token).organization == "acme"
        assert lab.machines()["syd"]["health"] == "down"
        lab.until_served("sin", by="ams")
        assert lab.run("isolate", "ams").code == 0
        lab.until_answers(client, "iad")
        assert lab.run("heal").code == lab.run("start", "tkdb-syd-1").code == 0
        lab.until_answers(client, "syd")
    executed = lab.run("exec", "--json", "sin", "--", "sh", "-c", "echo $TKDB_URL; exit 7")
    assert (executed.code, json.loads(executed.out)["output"]) == (7, "http://tkdb.flycast\n")
    wrong = lab.run("cut", "iad", "nowhere")
    assert (wrong.code, "no region" in wrong.err) == (2, True)
    second = lab.run("up")
    assert (second.code, "a lab runs in" in second.err) == (1, True)
    assert lab.run("down").out == "the lab stops\n"


@pytest.mark.slow
def test_a_client_that_names_regions_continues_at_once_when_the_nearest_hangs(lab: RunningLab) -> None:
    """A proxy sends requests to a hanging machine until its checks fail. The client notices with one call."""
    urls = [f"{lab.exports['TKDB_URL']}?region={region}" for region in ("iad", "ams", "syd")]
    with Client(urls, lab.exports["TKDB_AUTHORITY"], signer=lab.signer()) as client:
        lab.until_answers(client, "syd")  # The client prefers the nearest region once it has measured the distances.
        client.create_organization("acme")
        token = client.mint("acme")
        shown = tkdb("regions", "--json", env=lab.exports | {"TKDB_URL": ",".join(urls)})
        assert {each["region"] for each in json.loads(shown.out)["regions"]} == {"iad", "ams", "syd"}
        assert lab.run("pause", "syd").code == 0
        assert client.status().region != "syd"
        assert client.verify(token).organization == "acme"
        assert [each.region for each in client.regions() if each.fault] == [
            ""
        ]  # A machine that hangs can't report its region.
        assert lab.run("resume", "syd").code == 0
        lab.until_answers(client, "syd")


def test_without_a_lab_a_command_reports_that_none_answers(tmp_path: Path) -> None:
    ran = tkdb("lab", "status", "--folder", str(tmp_path))
    assert (ran.code, "no lab answers" in ran.err) == (3, True)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    ran = tkdb("lab", "up", "--folder", str(tmp_path))
    assert (ran.code, [each.name for each in tmp_path.iterdir()]) == (2, ["mine"])
