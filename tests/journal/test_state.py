"""The memory that the state of a large authority takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import random
from tests.journal.scribe import START_MS
from tkdb.database.audit import audit
from tkdb.database.database import Database
from tkdb.journal.rows import KeyRow, OrganizationRow, RevocationRow
from tkdb.journal.state import State

draw, state, lifetime_s = random.Random(1), State(), 90 * 86_400
for i in range(100_000):
    row = OrganizationRow(f"organization-{i}", lifetime_s, lifetime_s, START_MS + i)
    state.put(row)
    state.put(KeyRow(draw.randbytes(16), row.name, 1, "signing", None, draw.randbytes(68)))
for i in range(1_000_000):
    nonce = (START_MS + i * 7_776).to_bytes(6, "big") + draw.randbytes(10)
    state.put(RevocationRow(draw.randbytes(16), nonce, b"", i))
resident = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(int(resident.split()[1]) / 1024)
"""


@pytest.mark.slow
def test_a_million_revocations_and_100_000_organizations_fit_in_memory() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=Path(__file__).parents[2], capture_output=True, check=True, text=True
    )
    assert float(run.stdout) < 200, "the limit is 200 MB, because the whole service has 256 MB"
