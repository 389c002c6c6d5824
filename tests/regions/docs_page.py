"""Running the commands of a page of the docs."""

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
from tests.forks import popen
from tests.replication.seaweed import free_ports


def run_page(page: str, folder: Path, *, ports: Iterable[int], timeout_s: float = 240) -> tuple[str, int | None]:
    """Run all ``bash`` blocks of a page, in one shell.

    Args:
        page: the file's name in docs/.
        folder: the working folder. It looks to the commands like a checkout with its environment.
        ports: the ports that the page names. Free ports are used instead.
        timeout_s: the time limit of the shell.

    Returns:
        The output, and the exit code, which isn't 0 if the shell had to be killed.
    """
    text = (ROOT / "docs" / page).read_text()
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    documented = list(ports)
    for number, port in zip(documented, free_ports(len(documented)), strict=True):
        script = script.replace(str(number), str(port))
    for name in ("docs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    _make_venv(folder / ".venv")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TKDB_", "AWS_"))}
    output = folder / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-u", "-c", script],
            cwd=folder,
            env={**environment, "TKDB_LEASE_MS": "3000", "TKDB_DRAIN_MS": "200", "TMPDIR": str(folder)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
        for number in (signal.SIGTERM, signal.SIGKILL):  # the whole group, so that the object store ends too
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(10)
    return output.read_text(), process.returncode


def _make_venv(folder: Path) -> None:
    """Make this Python's environment appear at ``folder``, with a `tkdb` that is forked."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != programs.name:
            (folder / path.name).symlink_to(path)
    for path in Path(sys.prefix, programs.name).iterdir():
        if path.name != "tkdb":
            (programs / path.name).symlink_to(path)
    # A real start takes this time. The page relies on it: a replica catches up before the next command asks it.
    chosen = f'[ "$1" = serve ] || sleep 0.4; exec "{popen.on_path()}/tkdb" "$@"'
    (programs / "tkdb").write_text(f"#!/bin/sh\n{chosen}\n")
    (programs / "tkdb").chmod(0o700)
