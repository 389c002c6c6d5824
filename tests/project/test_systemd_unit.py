"""docs/tkdb.service: the unit for systemd, judged by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tkdb.server.limits import Limits
from tkdb.server.listen import BACKLOG
from tkdb.server.run import OTHER_FILES

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "docs" / "tkdb.service"
WORST = 13
"""The largest exposure, in tenths: systemd calls up to 2.0 "OK", and a service without any protection has 9.6."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed")


def exposed(unit: Path) -> bool:
    """Return True if the unit's exposure is above ``WORST``."""
    analyze = ("systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={WORST}")
    done = subprocess.run([*analyze, str(unit)], capture_output=True, text=True, check=False)
    assert "Overall exposure level" in done.stdout, done.stderr
    return done.returncode != 0


@needs_systemd
def test_systemd_finds_the_unit_hardened() -> None:
    assert not exposed(UNIT)


@needs_systemd
@pytest.mark.parametrize("directive", ["SystemCallFilter", "CapabilityBoundingSet", "PrivateUsers", "DynamicUser"])
def test_systemd_finds_the_unit_exposed_without_a_protection(directive: str, tmp_path: Path) -> None:
    """The negative control of the previous test."""
    text, removed = re.subn(rf"^{directive}=.*\n", "", UNIT.read_text(), flags=re.MULTILINE)
    assert removed
    weaker = tmp_path / "tkdb.service"
    weaker.write_text(text)
    assert exposed(weaker)


def test_the_unit_allows_the_authoritys_files_and_no_core_dump() -> None:
    text = UNIT.read_text()
    assert int(re.findall(r"^LimitNOFILE=(\d+)$", text, re.MULTILINE)[0]) > (
        Limits().connections_max + BACKLOG + OTHER_FILES
    )
    assert "LimitCORE=0\n" in text


def test_the_page_names_the_unit_instead_of_copying_it() -> None:
    page = (ROOT / "docs" / "deploy-hosts.md").read_text()
    assert "(tkdb.service)" in page
    assert "[Service]" not in page
