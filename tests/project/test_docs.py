"""The documentation: its commands work, all named files and targets exist, and each guarantee has tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import exports, running
from tests.forks import popen

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[str]:
    lines = "".join(blocks(document, "console")).splitlines()
    return [line.removeprefix("$ ").partition("  #")[0] for line in lines if line.startswith("$ ")]


def test_the_readmes_commands_work_in_order(tmp_path: Path) -> None:
    shown = [command for command in commands("README.md") if command.startswith("tkdb ")]
    assert len(shown) >= 4
    with running("dev") as process:
        environment = {**os.environ, **exports(process)}
        del environment["TKDB_TOKEN"]
        environment["PATH"] = f"{popen.on_path()}{os.pathsep}{environment['PATH']}"
        for command in shown:
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"


def test_the_readmes_python_code_works(tmp_path: Path) -> None:
    (code,) = blocks("README.md", "python")
    with running("dev") as process:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, **exports(process)},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("caveat unmet · caveat 4 of 5 (act r) is not met: it allows r;")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_documented_make_command_is_a_target(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shown = re.findall(r"^\$ make ([a-z]+)|`make ([a-z]+)", document.read_text(), flags=re.MULTILINE)
    assert {first or second for first, second in shown} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_has_a_target(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_path_exists(document: Path) -> None:
    named = set(re.findall(r"`((?:tkdb|client|replication|tests|bench|docs)/[A-Za-z0-9_./-]+)`", document.read_text()))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_guarantee_has_a_row_of_tests() -> None:
    text = (ROOT / "GUARANTEES.md").read_text()
    promised = set(re.findall(r"^\*\*(G\d)\.", text, flags=re.MULTILINE))
    shown = set(re.findall(r"^\| (G\d) \|", text, flags=re.MULTILINE))
    assert promised == shown == {f"G{number}" for number in range(1, 9)}


def test_every_test_named_by_a_guarantee_exists() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "GUARANTEES.md").read_text()))
    defined = {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 15
    assert named <= defined


def test_every_decision_is_listed() -> None:
    listed = set(re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", (ROOT / "docs/decisions/README.md").read_text()))
    assert listed == {path.name for path in (ROOT / "docs/decisions").glob("0*.md")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_code_block_is_closed(document: Path) -> None:
    """An unclosed block turns the rest of the page into code. This has happened to half of ARCHITECTURE.md."""
    assert unclosed_blocks(document.read_text()) == []


def test_an_unclosed_code_block_is_detected() -> None:
    assert unclosed_blocks("```console\n$ make\n```\ntext\n```\nmore\n") == [5]
    assert unclosed_blocks("```python\na\n```text\nb\n```\n") == [1]


def unclosed_blocks(text: str) -> list[int]:
    """Return the lines of opening fences that no bare fence closes before another block (CommonMark 0.31, 4.5)."""
    opened, unclosed = 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("```"):
            continue
        if not opened:
            opened = number
        elif line.strip() == "```":
            opened = 0
        else:
            unclosed.append(opened)
            opened = number
    return unclosed + ([opened] if opened else [])
