"""docs/regions.md is true: what it tells to type is typed, and comes out as it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.node import ROOT
from tests.replication.seaweed import free_ports

DOCS = (ROOT / "docs" / "regions.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_machines_by_hand_as_the_page_tells(tmp_path: Path) -> None:
    typed = "\n".join(re.findall(r"^```bash\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))
    for documented, port in zip((8101, 8102, 8103), free_ports(3), strict=True):
        typed = typed.replace(str(documented), str(port))
    # In a checkout of its own, as far as the commands can tell.
    for name in ("docs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TKDB_", "AWS_"))}
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-u", "-c", typed],
            cwd=tmp_path,
            env={**environment, "TKDB_LEASE_MS": "3000", "TKDB_DRAIN_MS": "200"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(240)
        for number in (signal.SIGTERM, signal.SIGKILL):  # so that the object store ends, too
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(10)
    assert_told(said.read_text(), process.returncode)


def assert_told(said: str, code: int | None) -> None:
    """Each thing that the page promises was said."""
    assert code == 0, said
    for line in ("refused in ams", "refused in syd", "not here", "still refused"):
        assert line in said.splitlines(), said
    assert re.search(r"^m1 is primary, of epoch \d+, after ", said, re.MULTILINE), said
    assert re.search(r"^iad +m1 +primary", said, re.MULTILINE), said
    assert len(re.findall(r"^initech ", said, re.MULTILINE)) >= 1, said
    assert said.count("the journal is whole") == 3, said
