"""docs/cli.md is correct: each documented command runs, and each command and option is documented."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.console import DOCS, ShownCommand, normalize, read
from tests.cli.processes import BARE, quick, running, tkdb
from tests.forks import popen
from tkdb.cli.app import app


@pytest.fixture
def machine_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a running machine and of its operator."""
    keys = tmp_path / "node"
    assert tkdb("keys", "generate", "--directory", str(keys)).code == 0
    environment = {
        "TKDB_NAME": "tkdb.example",
        "TKDB_AUTHORITY_KEY_FILE": f"{keys}/authority.key",
        "TKDB_SEAL_KEYS_FILE": f"{keys}/seal.key",
        "TKDB_SIGNERS_FILE": f"{keys}/signers.toml",
        "TKDB_DB": f"{tmp_path}/tkdb.db",
        "TKDB_BIND": "127.0.0.1:0",
        "TKDB_DRAIN_MS": "0",
    }
    with running("serve", "--json", env=environment) as process:
        address = re.findall(r'"address":"([^"]+)"', process.stdout.readline())[0]
        authority = tkdb("keys", "public", env=environment).out.strip()
        yield environment | {
            "TKDB_URL": f"http://{address}",
            "TKDB_AUTHORITY": authority,
            "TKDB_SIGNER": (keys / "signer.key").read_text().strip(),
        }


def run_shown(shown: ShownCommand, folder: Path, env: dict[str, str]) -> tuple[str, int]:
    path = f"{popen.on_path()}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", shown.command + " 2>&1" if ">" not in shown.command else shown.command + " 2>/dev/null"],
        cwd=folder,
        env=BARE | env | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.rstrip("\n"), done.returncode


def test_every_documented_command_gives_the_documented_output(tmp_path: Path, machine_env: dict[str, str]) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    count = 0
    for shown in read(DOCS.read_text()):
        output, code = run_shown(shown, folder, machine_env)
        assert (shown.command, code) == (shown.command, shown.code), output
        assert normalize(output) == normalize(shown.output), shown.command
        count += 1
    assert count > 20


def commands() -> list[tuple[str, set[str]]]:
    """Return each command with its options."""

    def below(command: Any, name: str) -> list[tuple[str, set[str]]]:
        if hasattr(command, "commands"):
            return [each for key, child in command.commands.items() for each in below(child, f"{name} {key}")]
        options = {each for parameter in command.params for each in parameter.opts if each.startswith("--")}
        return [(name, options - {"--help"})]

    return below(typer.main.get_command(app), "tkdb")


@pytest.mark.parametrize(("name", "options"), commands())
def test_every_command_and_option_is_documented(name: str, options: set[str]) -> None:
    sections = dict(re.findall(r"^## (tkdb .*?)\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL))
    assert name in sections
    assert {option for option in options - {"--json"} if option not in sections[name]} == set()


@pytest.mark.parametrize(("name", "options"), commands())
def test_every_help_page_has_an_example_and_json(name: str, options: set[str]) -> None:
    shown = quick(*name.split()[1:], "--help")
    assert (shown.code, shown.err) == (0, "")
    assert f"$ {name}" in shown.out
    assert "--json" in options


def test_every_documented_command_exists() -> None:
    named = set(re.findall(r"^## (tkdb .*)$", DOCS.read_text(), re.MULTILINE))
    assert named == {name for name, _ in commands()}
