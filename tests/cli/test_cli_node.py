"""A real machine across restarts: its sealing secret is replaced, or its journal is altered."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import quick, running
from tkdb.channel.keys import SignerPublic


@pytest.fixture
def machine_env(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine and of its operator."""
    keys = tmp_path / "keys"
    assert quick("keys", "generate", "--directory", str(keys)).code == 0
    return {
        "TKDB_NAME": "tkdb.example",
        "TKDB_AUTHORITY_KEY_FILE": f"{keys}/authority.key",
        "TKDB_SEAL_KEYS": (keys / "seal.key").read_text().strip(),
        "TKDB_SIGNERS_FILE": f"{keys}/signers.toml",
        "TKDB_SIGNER_FILE": f"{keys}/signer.key",
        "TKDB_DB": f"{tmp_path}/tkdb.db",
        "TKDB_BIND": "127.0.0.1:0",
        "TKDB_DRAIN_MS": "0",
    }


def client_variables(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the variables that a client of a newly started machine needs."""
    assert process.stdout is not None
    ready: dict[str, Any] = json.loads(process.stdout.readline())
    return {"TKDB_URL": f"http://{ready['address']}", "TKDB_AUTHORITY": ready["authority"]}


def test_a_sealing_secret_is_replaced_without_losing_a_token(machine_env: dict[str, str]) -> None:
    with running("serve", "--json", env=machine_env) as process:
        env = machine_env | client_variables(process)
        assert quick("org", "create", "acme", env=env).code == 0
        token = quick("token", "mint", "acme", env=env).out
    old, new = machine_env["TKDB_SEAL_KEYS"], quick("keys", "generate", "--kind", "seal").out.strip()
    with running("serve", "--json", env=machine_env | {"TKDB_SEAL_KEYS": f"{new},{old}"}) as process:
        resealed = quick("keys", "reseal", "--json", env=machine_env | client_variables(process))
        assert json.loads(resealed.out) == {"resealed": 2, "remaining": 0}  # acme's root key, and the chain key
        assert "0 records left" in resealed.err
    with running("serve", "--json", env=machine_env | {"TKDB_SEAL_KEYS": new}) as process:
        assert quick("token", "verify", stdin=token, env=machine_env | client_variables(process)).code == 0
    with running("serve", env=machine_env) as process:
        assert process.wait(30) == 2
        assert process.stderr is not None
        assert "sealing secret" in process.stderr.read()


def test_an_audit_fails_after_an_entry_was_altered(machine_env: dict[str, str], tmp_path: Path) -> None:
    with running("serve", "--json", env=machine_env) as process:
        assert quick("org", "create", "acme", env=machine_env | client_variables(process)).code == 0
    assert json.loads(quick("audit", "verify", "--json", env=machine_env).out)["signed"] == 1
    unsigned = {name: value for name, value in machine_env.items() if name != "TKDB_SIGNERS_FILE"}
    assert json.loads(quick("audit", "verify", "--json", env=unsigned).out)["unknown"] == 1
    with closing(sqlite3.connect(machine_env["TKDB_DB"])) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE journal SET time_ms = time_ms + 1 WHERE seq = 2")
        database.commit()
    broken = quick("audit", "verify", env=machine_env)
    assert broken.code == 1
    assert broken.err.startswith("error: ")
    (tmp_path / "other").write_bytes(b"not a database" * 100)
    assert quick("audit", "verify", str(tmp_path / "other"), env=machine_env).code == 2
    assert quick("audit", "verify", str(tmp_path / "missing"), env=machine_env).code == 3


def test_an_audit_checks_a_retired_signer_and_is_strict_about_a_removed_one(machine_env: dict[str, str]) -> None:
    with running("serve", "--json", env=machine_env) as process:
        assert quick("org", "create", "acme", env=machine_env | client_variables(process)).code == 0
    listed = Path(machine_env.pop("TKDB_SIGNERS_FILE")).read_text()
    retired = machine_env | {"TKDB_SIGNERS": listed + "retired = true\n"}
    with running("serve", "--json", env=retired) as process:
        assert quick("org", "create", "initech", env=retired | client_variables(process)).code == 3
    checked = quick("audit", "verify", "--strict", "--json", env=retired)
    assert (checked.code, json.loads(checked.out)["signed"]) == (0, 1)
    signer = SignerPublic.parse(re.findall(r'"(tkdbsignerpub_[^"]+)"', listed)[0]).thumbprint.hex()
    for removed in (machine_env, machine_env | {"TKDB_SIGNERS": ""}):
        report = json.loads(quick("audit", "verify", "--json", env=removed).out)
        assert report["unknown_signers"] == [{"signer": signer, "entries": 1, "first": 2, "last": 2}]
        shown = quick("audit", "verify", env=removed)
        assert (shown.code, signer in shown.out, "1 signatures couldn't be checked" in shown.err) == (0, True, True)
        strict = quick("audit", "verify", "--strict", env=removed)
        assert (strict.code, strict.out) == (1, shown.out)


def test_serve_ignores_the_variables_of_other_commands(machine_env: dict[str, str]) -> None:
    environment = machine_env | {"TKDB_TOKEN": "x", "TKDB_URL": "x", "TKDB_AUTHORITY": "x"}
    with running("serve", "--json", env=environment) as process:
        assert quick("status", env=client_variables(process)).code == 0
    assert process.returncode == 0
