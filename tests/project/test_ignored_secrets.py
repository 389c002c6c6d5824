"""A secret that lands in the checkout by mistake is neither committed nor copied into an image."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.cli.processes import quick
from tkdb.cli import keys

ROOT = Path(__file__).parents[2]
SECRETS = [
    *(f"{kind.value}.key" for kind in keys.VARIABLES),
    "signers.toml", "keys/any", "bucket.env", "store.env", ".env", ".env.local", "token.txt", "child.txt", "signer.txt",
    "tkdb.db", "tkdb.db-wal", "key.pem",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("folder", ["", "tkdb/"])
def test_the_usual_files_with_secrets_are_ignored(name: str, folder: str) -> None:
    patterns = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines() if "/" in line]
    assert any(fnmatch(part, pattern) for part in name.split("/") for pattern in patterns)
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    command = ["git", "check-ignore", "--quiet", "--no-index", f"{folder}{name}"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_no_file_of_the_project_is_ignored() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout == b""


@pytest.mark.parametrize("below", ["", "keys", "a/b/keys"])
def test_secrets_are_not_generated_in_a_repository(tmp_path: Path, below: str) -> None:
    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    ran = quick("keys", "generate", "--directory", str(repository / below))
    assert (ran.code, ran.out) == (2, "")
    assert "is in the Git repository" in ran.err
    assert [path.name for path in repository.iterdir()] == [".git"]
    assert quick("keys", "generate", "--directory", str(tmp_path / "keys")).code == 0


def test_without_the_rule_secrets_land_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_require_no_repository", lambda directory: None)
    (tmp_path / ".git").mkdir()
    assert quick("keys", "generate", "--directory", str(tmp_path / "keys")).code == 0
    assert (tmp_path / "keys" / "seal.key").exists()
