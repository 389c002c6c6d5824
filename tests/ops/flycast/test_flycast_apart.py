"""Stand-ins on one machine are independent of each other, and clean up after themselves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.flycast.stand_in import StandIn, echo
from tests.waiting import until
from tkdb.errors import ConfigurationError, Unavailable
from tkdb_ops.flycast.flycast import FOLDERS, Flycast
from tkdb_ops.flycast.layout import App
from tkdb_ops.flycast.machines import Command
from tkdb_replication.litestream.scratch import sweep

ROOT = Path(__file__).parents[3]
TKDB = App("tkdb", ("iad", "syd"))


def running_in(folder: str) -> list[str]:
    """Return the command line of each process that mentions ``folder`` in its arguments or runs there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
            directory = str(process.joinpath("cwd").readlink())
        except OSError:
            continue
        if folder in line or folder in directory:
            found.append(line)
    return found


@pytest.mark.parametrize("isolated", [True, False])
def test_nothing_outlives_a_killed_owner(isolated: bool, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("isolating" if isolated else "envoy")
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.ops.flycast.owner", "isolated" if isolated else "shared"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert owner.stdout is not None
    folder = owner.stdout.readline().strip()
    assert len(running_in(folder)) >= 2
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(lambda: not running_in(folder), lambda: running_in(folder))
    assert Path(folder).exists()
    sweep(FOLDERS)  # Every stand-in does this when it starts.
    assert not Path(folder).exists()


def test_a_folder_in_use_is_left_alone(stand_in: StandIn) -> None:
    sweep(FOLDERS)
    assert stand_in.flycast.folder.exists()
    assert stand_in.ask("sin").machine == "tkdb-syd-1"


def test_two_stand_ins_are_independent(stand_in: StandIn) -> None:
    with StandIn(Flycast({TKDB: echo}, clients=["sin"], isolated=True)) as other:
        other.do(other.flycast.backbone.isolate("syd"))
        other.do(other.machine("tkdb-iad-1").kill())
        assert stand_in.ask("sin").machine == "tkdb-syd-1"
        assert stand_in.ask("sin", x_answer_replay="region=iad").machine == "tkdb-iad-1"
        assert other.flycast.folder != stand_in.flycast.folder


def test_two_stand_ins_on_loopback_are_independent_and_list_what_is_missing(envoy: str) -> None:
    one = Flycast({TKDB: echo}, clients=["sin"], isolated=False)
    with StandIn(one) as first, StandIn(Flycast({TKDB: echo}, clients=["sin"], isolated=False)) as second:
        second.do(second.machine("tkdb-syd-1").kill())
        assert second.ask("sin", body=b"x").machine == "tkdb-iad-1"
        assert first.ask("sin").machine == "tkdb-syd-1"
        replayed = first.ask("sin", body=b"x", x_answer_replay="instance=tkdb-iad-1;timeout=1s;fallback=force_self")
        assert replayed.machine == "tkdb-iad-1"
        assert any("cuts" in missing for missing in first.flycast.not_emulated)
        with pytest.raises(ConfigurationError, match="cut off"):
            _ = first.flycast.backbone


def test_a_stand_in_removes_its_folder_when_it_ends(envoy: str) -> None:
    with StandIn(Flycast({App("tkdb", ("iad",)): echo}, clients=["iad"], isolated=False)) as stand_in:
        folder = stand_in.flycast.folder
    assert not folder.exists()
    assert not running_in(str(folder))


def test_a_machine_that_does_not_start_is_reported_with_its_output(envoy: str) -> None:
    async def attempt() -> None:
        broken = Command([sys.executable, "-c", "raise SystemExit('no such secret')"], {})
        async with Flycast({App("tkdb", ("iad",)): lambda machine: broken}, isolated=False):
            raise AssertionError("the broken machine started")

    with pytest.raises(Unavailable, match="tkdb-iad-1 ended as it started: its output: no such secret"):
        asyncio.run(attempt())
