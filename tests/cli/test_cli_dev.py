"""``tkdb dev`` end to end: another process needs only the variables that it prints."""

from __future__ import annotations

import json
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.cli.processes import exports, running, tkdb
from tkdb_client import Client


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310  our own
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310  our own
        found: dict[str, Any] = json.load(response)
        return found


def test_another_process_can_use_the_authority_that_dev_prints(dev: dict[str, str]) -> None:
    minted = tkdb("token", "mint", "dev", "--action", "rw", "--resource", "app:shop=rw", "--expires-in", "5m", env=dev)
    assert (minted.code, minted.err) == (0, "")
    attenuated = tkdb("token", "narrow", "--action", "r", stdin=minted.out)
    assert attenuated.code == 0
    verified = tkdb("token", "verify", "--action", "r", "--resource", "app=shop", stdin=attenuated.out, env=dev)
    assert (verified.code, verified.err) == (0, "")
    assert "verified and cleared" in verified.out
    denied = tkdb("token", "verify", "--action", "w", "--resource", "app=shop", stdin=attenuated.out, env=dev)
    assert denied.code == 1
    assert "caveat 4 of 4  act r   it allows r; the request is w" in denied.out
    assert tkdb("token", "revoke", stdin=minted.out, env=dev).out == "revoked\n"
    assert tkdb("token", "revoke", stdin=minted.out, env=dev).out == "already revoked\n"
    after_revocation = tkdb("token", "verify", stdin=attenuated.out, env=dev)
    assert (after_revocation.code, after_revocation.out.splitlines()[0]) == (1, "denied: revoked")


def test_dev_prints_a_valid_token_and_warns_that_it_is_not_for_production() -> None:
    with running("dev", "--name", "tkdb.learning") as process:
        found = exports(process)
        assert "NOT FOR PRODUCTION" in process.stderr.readline()
        assert found["TKDB_AUTHORITY"].startswith("tkdb.learning=tkdbpub_")
        with Client(found["TKDB_URL"], found["TKDB_AUTHORITY"]) as client:
            assert client.verify(found["TKDB_TOKEN"]).organization == "dev"
    assert process.returncode == 0


def test_dev_prints_one_json_document() -> None:
    with running("dev", "--json") as process:
        document = json.loads(process.stdout.readline())
        assert set(document) == {"url", "authority", "signer", "token"}


def test_dev_answers_plain_json(dev: dict[str, str]) -> None:
    minted = post(dev["TKDB_URL"] + "/dev/mint", {"organization": "dev", "caveats": [["act", "r"]]})
    token = minted["result"]["token"]
    verified = post(dev["TKDB_URL"] + "/dev/verify", {"bundles": [token]})
    assert verified["result"]["results"][0]["organization"] == "dev"
    with urllib.request.urlopen(dev["TKDB_URL"] + "/openapi.json", timeout=60) as response:  # noqa: S310  our own
        assert "paths" in json.load(response)


def test_dev_listens_only_on_loopback() -> None:
    for bind in ("0.0.0.0:0", "[::]:0", "10.0.0.1:80"):
        ran = tkdb("dev", "--bind", bind)
        assert ran.code == 2
        assert "loopback only" in ran.err


def test_dev_ignores_the_variables_of_a_real_machine(tmp_path: Path) -> None:
    database = tmp_path / "tkdb.db"
    with running("dev", env={"TKDB_DB": str(database), "TKDB_NAME": "production"}) as process:
        assert exports(process)["TKDB_AUTHORITY"].startswith("tkdb.dev=")
    assert not database.exists()


def test_serve_lists_every_wrong_setting() -> None:
    ran = tkdb("serve", env={"TKDB_NAME": "tkdb.example", "TKDB_DRAIN": "1"})
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: 5 settings are wrong")
    assert "TKDB_DRAIN: there is no such setting; did you mean TKDB_DRAIN_MS?" in ran.err


def test_generated_keys_start_a_machine_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    generated = tkdb("keys", "generate", "--directory", str(keys))
    assert generated.out.split() == [str(keys / f"{name}") for name in
                                     ("authority.key", "seal.key", "signer.key", "signers.toml")]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
    assert tkdb("keys", "generate", "--directory", str(keys)).code == 2

    variables = dict(word.split("=", 1) for word in generated.err.split() if word.startswith("TKDB_"))
    env = variables | {"TKDB_DB": str(tmp_path / "tkdb.db"), "TKDB_BIND": "127.0.0.1:0", "TKDB_DRAIN_MS": "0"}
    with running("serve", "--json", env=env) as process:
        document = json.loads(process.stdout.readline())
        assert document["name"] == "tkdb.example"
        assert document["authority"] == tkdb("keys", "public", env=env).out.strip()
        second = tkdb("serve", env=env)
        assert second.code == 3
        assert second.err.startswith("error: ")
    assert process.returncode == 0

    audited = tkdb("audit", "verify", "--json", env=env)
    assert (audited.code, json.loads(audited.out)["entries"]) == (0, 1)
    other = tkdb("keys", "generate", "--kind", "seal").out.strip()
    unsealable = {name: value for name, value in env.items() if name != "TKDB_SEAL_KEYS_FILE"}
    assert tkdb("audit", "verify", env=unsealable | {"TKDB_SEAL_KEYS": other}).code == 2


def test_an_unreachable_authority_exits_with_3(dev: dict[str, str]) -> None:
    ran = tkdb("status", "--json", env=dev | {"TKDB_URL": "http://127.0.0.1:9"})
    assert ran.code == 3
    assert set(json.loads(ran.out)["error"]) == {"code", "message", "hint"}
