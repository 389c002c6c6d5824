"""Typing what a page of the docs tells to type."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.node import ROOT
from tests.replication.seaweed import free_ports


def type_page(page: str, folder: Path, *, ports: Iterable[int], patience_s: float = 240) -> tuple[str, int | None]:
    """Type all ``bash`` blocks of a page, in one shell.

    Args:
        page: its name in docs/.
        folder: where; for the commands, it is a checkout with its environment.
        ports: the ports that it names: free ones are taken instead.
        patience_s: when to give up.

    Returns:
        All that was said, and the exit code; None if it had to be ended.
    """
    text = (ROOT / "docs" / page).read_text()
    typed = "\n".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    documented = list(ports)
    for number, port in zip(documented, free_ports(len(documented)), strict=True):
        typed = typed.replace(str(number), str(port))
    for name in ("docs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TKDB_", "AWS_"))}
    said = folder / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-u", "-c", typed],
            cwd=folder,
            env={**environment, "TKDB_LEASE_MS": "3000", "TKDB_DRAIN_MS": "200"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
        for number in (signal.SIGTERM, signal.SIGKILL):  # so that the object store ends, too
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(10)
    return said.read_text(), process.returncode
