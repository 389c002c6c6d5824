"""The real command in a separate process, and a quick way to run it in this one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tkdb.cli.app import run

TKDB = str(Path(sys.executable).with_name("tkdb"))
BARE = {name: value for name, value in os.environ.items() if not name.startswith("TKDB_")} | {"COLUMNS": "100"}


@dataclass(frozen=True)
class CommandResult:
    """The result of one command."""

    code: int
    out: str
    err: str


def tkdb(*arguments: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None) -> CommandResult:
    """Run the real executable until it exits."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [TKDB, *arguments], input=given, env=BARE | dict(env or {}), capture_output=True, timeout=60, check=False
    )
    return CommandResult(done.returncode, done.stdout.decode(), done.stderr.decode())


def quick(*arguments: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None) -> CommandResult:
    """Run a command in this process, which saves the time of a start."""
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryFile("w+") as file:
        file.buffer.write(stdin.encode() if isinstance(stdin, str) else stdin)
        file.seek(0)
        with (
            mock.patch.object(sys, "stdin", file),
            mock.patch.dict(os.environ, BARE | dict(env or {}), clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = run(arguments)
    return CommandResult(code, out.getvalue(), err.getvalue())


@contextmanager
def running(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a command that keeps running, and stop it when the block ends, if it still runs."""
    process = subprocess.Popen(
        [TKDB, *arguments], env=BARE | dict(env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def exports(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the variables that ``tkdb dev`` prints."""
    assert process.stdout is not None
    found = {}
    for _ in range(4):
        line = process.stdout.readline()
        assert line.startswith("export TKDB_"), line
        name, _, value = line.removeprefix("export ").strip().partition("=")
        found[name] = value
    return found
