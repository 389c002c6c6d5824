"""No command leaves its secrets in a core dump, or shows them to another process of its user."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.cli.processes import quick
from tkdb.cli import app as cli
from tkdb.cli import dumps
from tkdb.errors import ConfigurationError

REPORT = (
    "import ctypes, resource, sys; from tkdb.cli.app import run; {before}; "
    "run(['keys', 'generate', '--kind', 'seal']); "
    "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"
)
"""A program that runs a command and prints whether its process can be dumped (PR_GET_DUMPABLE), and how much."""


def leaves(group: Any, path: str = "tkdb") -> Iterator[tuple[str, Any]]:
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from leaves(each, f"{path} {name}")
        else:
            yield f"{path} {name}", each


COMMANDS = dict(leaves(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_every_command_first_switches_dumps_off(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigurationError("dumps can't be switched off")

    monkeypatch.setattr(dumps, "switch_off", refuse)
    with pytest.raises(typer.Exit) as ended:
        command.callback(**{each.name: each.default for each in command.params if each.name != "help"})
    assert ended.value.exit_code == 2


def dumpable(before: str) -> str:
    """Return what the process prints after a command. ``before`` is a statement that it executes first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TKDB_")}
    raised = "resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)"
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(before=f"{raised}; {before}")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_DUMPABLE")
def test_the_process_of_a_command_cannot_be_dumped() -> None:
    assert dumpable("pass") == "0 0 0"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_DUMPABLE")
def test_without_the_switch_the_process_of_a_command_can_be_dumped() -> None:
    """The negative control of the previous test."""
    assert dumpable("from tkdb.cli import dumps; dumps.switch_off = lambda: None").startswith("1 ")


def test_a_kernel_that_refuses_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    ended = quick("keys", "generate", "--kind", "seal")
    assert (ended.code, ended.out) == (2, "")
    assert "dumps of this process can't be switched off: Operation not permitted" in ended.err
