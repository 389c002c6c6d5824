"""Nothing tells anyone to install tkdb from an index: on PyPI, its name isn't this project's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FROM_INDEX = re.compile(r"(?:pip|uv|pipx)\s+(?:tool\s+)?(?:install|add)\s+(?:-\S+\s+)*['\"]?tkdb(?:\[|['\"`\s=<>]|$)")


def test_no_text_installs_tkdb_from_an_index() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [
        name for name in tracked.stdout.split("\0") if name.endswith((".py", ".md", ".toml", "Dockerfile", ".yaml"))
    ]
    found = [
        f"{name}: {match[0]}"
        for name in names
        if (ROOT / name).exists() and name != "tests/project/test_install_hints.py"
        for match in FROM_INDEX.finditer((ROOT / name).read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "pip install tkdb",
        "pip install 'tkdb[server]'",
        "uv add tkdb==0.1",
        "pip install --upgrade tkdb",
        "uv tool install tkdb",
    ],
)
def test_each_way_to_install_from_an_index_is_found(text: str) -> None:
    assert FROM_INDEX.search(text)


@pytest.mark.parametrize(
    "text", ["pip install '.[server]'", "pip install 'tkdb-0.1.0-py3-none-any.whl[cli]'", "pip install tkdb-client"]
)
def test_a_checkout_and_a_wheel_are_allowed(text: str) -> None:
    assert not FROM_INDEX.search(text)
