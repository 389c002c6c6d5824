"""Output has colour only on a terminal, and only if NO_COLOR isn't set."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.cli.processes import BARE, TKDB, tkdb
from tkdb.cli import main
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.mint import mint

pytestmark = pytest.mark.real_start

TOKEN = mint(
    "tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1, random=bytes(10), caveats=[Exp(2**40), Act("rw")]
).text


def on_a_terminal(*arguments: str, **env: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [TKDB, *arguments],
        env=BARE | {"TERM": "xterm-256color", "TKDB_TOKEN": TOKEN} | env,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # a pseudo-terminal raises this at its end
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    process.wait(30)
    return shown.decode()


def test_only_a_terminal_without_no_color_gets_colour() -> None:
    shown = on_a_terminal("token", "explain", "--action", "r")
    assert "\x1b[" in shown
    assert "\x1b[" not in on_a_terminal("token", "explain", "--action", "r", NO_COLOR="1")
    assert "\x1b[" not in tkdb("token", "explain", "--action", "r", env={"TKDB_TOKEN": TOKEN}).out


def test_piped_lines_are_not_wrapped_and_have_no_trailing_space() -> None:
    wide = {"TKDB_TOKEN": TOKEN, "COLUMNS": "20"}
    lines = tkdb("token", "inspect", env=wide).out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert any(len(line) > 60 for line in lines)


def test_tkdb_names_the_package_to_install_if_typer_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tkdb.cli.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "run `pip install '.[cli]'` in a checkout of tkdb" in capsys.readouterr().err


def test_tkdb_names_the_package_to_install_if_the_server_is_missing() -> None:
    code = "import sys; sys.modules['hypercorn'] = None; sys.argv = ['tkdb', 'dev']; from tkdb.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=BARE, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 2
    assert "run `pip install '.[server]'` in a checkout of tkdb" in ran.stderr
