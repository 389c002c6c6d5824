"""docs/deploy-*.md: all documented commands, options and settings exist, although the commands can't run here."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from tests.cli.processes import BARE
from tkdb.cli.app import app
from tkdb.settings import CLIENT_VARIABLES, SETTINGS, Settings
from tkdb_ops.flycast.fleet import Fleet

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("deploy-*.md"))
FLY = (ROOT / "docs" / "deploy-fly.md").read_text()
HOSTS = (ROOT / "docs" / "deploy-hosts.md").read_text()

# The commands that the pages use, and some of their options. Source: flyctl's reference, flyctl/cmd of superfly/docs,
# August 2026.
FLYCTL: Final[dict[str, set[str]]] = {
    "apps create": {"--org", "--name", "--network"},
    "apps destroy": {"--yes"},
    "checks list": {"--app", "--check-name", "--json"},
    "config validate": {"--app", "--config", "--strict"},
    "console": {"--app", "--command", "--env", "--image", "--machine", "--region", "--user", "--volume"},
    "deploy": {"--app", "--build-only", "--detach", "--flycast", "--ha", "--image", "--image-label", "--no-public-ips",
               "--push", "--regions", "--strategy", "--wait-timeout"},
    "ips allocate-v6": {"--app", "--network", "--org", "--private", "--region"},
    "ips list": {"--app", "--json"},
    "ips release": {"--app"},
    "logs": {"--app", "--json", "--machine", "--no-tail", "--region"},
    "machine cordon": {"--app"},
    "machine destroy": {"--app", "--force"},
    "machine list": {"--app", "--json", "--quiet"},
    "machine run": {"--app", "--command", "--env", "--region", "--rm", "--shell", "--user", "--volume"},
    "machine start": {"--app"},
    "machine stop": {"--app", "--signal", "--timeout"},
    "machine uncordon": {"--app"},
    "releases": {"--app", "--image", "--json"},
    "scale count": {"--app", "--max-per-region", "--region", "--with-new-volumes", "--yes"},
    "secrets import": {"--app", "--detach", "--stage"},
    "ssh console": {"--app", "--command", "--machine", "--pty", "--region", "--user"},
    "storage create": {"--app", "--name", "--org", "--yes"},
    "storage dashboard": {"--app", "--org"},
    "storage destroy": {"--app", "--yes"},
    "volumes destroy": {"--app", "--yes"},
    "volumes fork": {"--app", "--name", "--region"},
    "volumes list": {"--app", "--json"},
}  # fmt: skip
OTHERS: Final = frozenset({"FLY_REGION", "FLY_MACHINE_ID", "PRIMARY_REGION"})


def command_lines(page: str) -> list[str]:
    """Return every command of a page, from its code blocks and from its inline code."""
    blocks = re.findall(r"^```(?:text|console|bash)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for line in "".join(blocks).splitlines() if line.startswith("$ ")]
    return lines + re.findall(
        r"`((?:fly|tkdb) [^`]+)`", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    )


def calls(page: str, program: str) -> list[list[str]]:
    """Return the arguments of each call of ``program``, also inside the arguments of another command."""
    found = []
    for line in command_lines(page):
        for part in line.split(" | "):
            words = shlex.split(part.partition(" <")[0].partition(" >")[0])
            if words[:1] == [program]:
                found.append(words[1:])
            found += [shlex.split(word)[1:] for word in words[1:] if word.startswith(f"{program} ")]
    return found


def commands() -> dict[str, set[str]]:
    """Return the options of each command of tkdb, by the command's name."""

    def below(command: Any, name: str) -> dict[str, set[str]]:
        if hasattr(command, "commands"):
            return {key: value for part, child in command.commands.items() for key, value in
                    below(child, f"{name} {part}".strip()).items()}  # fmt: skip
        return {name: {each for parameter in command.params for each in parameter.opts}}

    return below(typer.main.get_command(app), "")


def unknown(arguments: list[str], among: dict[str, set[str]]) -> str | None:
    """Return the part of a call that isn't in ``among``, or None."""
    name = max((name for name in among if name.split() == arguments[: len(name.split())]), key=len, default=None)
    if name is None:
        return " ".join(arguments)
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    return " ".join(options - among[name]) or None


def test_commands_and_unknown_parts_are_found() -> None:
    assert len(calls(FLY, "fly")) > 40
    assert ["init"] in calls(FLY, "tkdb")
    assert ["keys", "public", "--name", "tkdb.acme.example", "--file", "~/acme-tkdb-keys/authority.key"] in calls(
        FLY, "tkdb"
    )
    assert unknown(["apps", "create", "--orgs", "x"], FLYCTL) == "--orgs"
    assert unknown(["apps", "make"], FLYCTL) == "apps make"


@pytest.mark.parametrize("arguments", [call for page in PAGES for call in calls(page.read_text(), "fly")], ids=" ".join)
def test_flyctl_has_every_documented_command_and_option(arguments: list[str]) -> None:
    assert unknown(arguments, FLYCTL) is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tkdb_has_every_documented_command_and_option(page: Path) -> None:
    shown = calls(page.read_text(), "tkdb")
    assert shown
    assert [call for call in shown if unknown(call, commands()) is not None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_setting_exists(page: Path) -> None:
    settings = {setting.variable for setting in SETTINGS}
    settings |= {f"{name}_FILE" for name in settings} | CLIENT_VARIABLES | OTHERS
    assert set(re.findall(r"\bTKDB_[A-Z_]*[A-Z]\b", page.read_text())) <= settings


def test_the_documented_fleet_is_valid() -> None:
    shown = re.search(r"^```toml\n(.*?)^```$", HOSTS, re.MULTILINE | re.DOTALL)
    assert shown is not None
    fleet = Fleet.parse(shown[1])
    fields = set(tomllib.loads(shown[1])) | {"check", "limit"} | {f"region.{name}" for name in ("machines", "nearest")}
    assert fields - {"region"} <= set(re.findall(r"^\| `([a-z.]+)` \|", HOSTS, re.MULTILINE))
    assert [machine.id for machine in fleet.site("gru").doors[0].machines] == ["m3", "m1", "m2", "m4"]


def test_the_documented_unit_configures_an_authority_and_gives_it_time_to_drain(tmp_path: Path) -> None:
    unit = (ROOT / "docs" / "tkdb.service").read_text()
    lines = [line.partition("=")[::2] for line in unit.splitlines() if "=" in line]
    given = dict(pair.split("=", 1) for name, text in lines if name == "Environment" for pair in text.split())
    files = {value for name, value in given.items() if name.endswith("_FILE")}
    assert {f"%d/{text.partition(':')[0]}" for name, text in lines if name == "LoadCredential"} == files
    drain_ms = next(int(setting.default or 0) for setting in SETTINGS if setting.variable == "TKDB_DRAIN_MS")
    assert int(dict(lines)["TimeoutStopSec"]) * 1000 > drain_ms + 10_000
    with pytest.raises(Exception, match="settings are wrong") as caught:  # The other settings are in files.
        Settings.parse({name: value for name, value in given.items() if name not in BARE})
    assert set(re.findall(r"^  (TKDB_[A-Z_]+): ", str(caught.value), re.MULTILINE)) == {
        "TKDB_NAME", "TKDB_AUTHORITY_KEY", "TKDB_SEAL_KEYS", "TKDB_SIGNERS"
    }  # fmt: skip
