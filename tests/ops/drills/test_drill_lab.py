"""Drills on real machines: no write is lost, no stale answer is accepted, and everything is cleaned up."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path

import pytest

from tests.cli.processes import running
from tests.ops.drills.lab_drills import SETTINGS, STORE_DOWN, missed, run_drills, show
from tkdb.errors import ConfigurationError
from tkdb_ops.drills.catalogue import find
from tkdb_ops.drills.drill import Verb
from tkdb_ops.drills.lab_target import CALLERS, REGIONS, OnLab
from tkdb_ops.drills.record import CallKind
from tkdb_ops.drills.run import Running
from tkdb_ops.lab.lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_killed_primary_loses_no_write_and_without_the_store_no_stale_answer_is_given(folder: Path) -> None:
    (killed, verdict), (down, dark) = run_drills(folder, [find("primary-killed"), STORE_DOWN])
    assert (missed(verdict), missed(dark)) == (set(), set())
    assert verdict.figures.acknowledged > 0
    assert verdict.figures.took_over_ms is not None
    assert "came back as a replica" in verdict.figures.old_primary
    assert {call.region for call in killed.calls} == set(CALLERS)
    assert {each.by for each in killed.calls if each.kind is CallKind.LOOK and each.by} == {
        "tkdb-ams-1",
        "tkdb-syd-1",
        "tkdb-iad-1",
    }
    assert all(audit.sound and audit.checked for audit in killed.audits)
    assert dark.figures.refused_ms is not None
    (span,) = down.blind
    assert span.callers == CALLERS


def test_callers_of_a_machine_with_a_skewed_clock_mint_on_another(folder: Path) -> None:
    ((jumped, verdict),) = run_drills(folder, [find("clock-jump")])
    assert missed(verdict) == set()
    noticed_ms = jumped.fault_ms + 2_000  # The machine reads the head four times a second.
    mints = [
        call for call in jumped.calls if call.kind is CallKind.MINT and call.region == "sin" and call.at_ms > noticed_ms
    ]
    assert [call for call in mints if not call.failed and call.end_ms < jumped.healed_ms]


def test_without_isolation_only_drills_of_the_network_are_refused(folder: Path) -> None:
    async def refused() -> None:
        async with OnLab(Lab(folder, REGIONS, CALLERS, isolated=False, settings=SETTINGS)) as target:
            assert Verb.KILL in target.verbs
            with pytest.raises(ConfigurationError, match="split-brain can't be run on lab: it needs to isolate"):
                Running(find("split-brain"), target, seed=1, tell=show)

    asyncio.run(refused())


def test_ctrl_c_during_a_fault_restores_and_cleans_up_everything(needs_isolated_lab: None, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tkd-") as short:  # The path of a socket has at most 107 bytes.
        arguments = ("drill", "run", "nearest-lost", "--folder", str(tmp_path / "drills"))
        with running(*arguments, env={"TMPDIR": short}) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "killed: tkdb-syd-1" in line:
                    break
            else:
                pytest.fail("".join(lines))
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)  # An impatient operator presses Ctrl-C twice.
            rest = process.stderr.read()
            assert (process.wait(60), "stopped early; everything is put back" in rest) == (130, True)
        assert list(Path(short).iterdir()) == []
