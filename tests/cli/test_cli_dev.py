"""``tkdb dev`` from end to end: what it prints is all that another process needs."""

from __future__ import annotations

import json
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.cli.processes import exports, running, tkdb
from tkdb_client import Client


def posted(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310  our own
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310  our own
        found: dict[str, Any] = json.load(response)
        return found


def test_what_dev_prints_serves_another_process_through_a_tokens_life(dev: dict[str, str]) -> None:
    minted = tkdb("token", "mint", "dev", "--act", "rw", "--res", "app:shop=rw", "--for", "5m", env=dev)
    assert (minted.code, minted.err) == (0, "")
    narrowed = tkdb("token", "attenuate", "--act", "r", stdin=minted.out)
    assert narrowed.code == 0
    verified = tkdb("token", "verify", "--action", "r", "--resource", "app=shop", stdin=narrowed.out, env=dev)
    assert (verified.code, verified.err) == (0, "")
    assert "verified and cleared" in verified.out
    denied = tkdb("token", "verify", "--action", "w", "--resource", "app=shop", stdin=narrowed.out, env=dev)
    assert denied.code == 1
    assert "caveat 4 of 4  act r   it allows r; the request is w" in denied.out
    assert tkdb("token", "revoke", stdin=minted.out, env=dev).out == "revoked\n"
    assert tkdb("token", "revoke", stdin=minted.out, env=dev).out == "already revoked\n"
    dead = tkdb("token", "verify", stdin=narrowed.out, env=dev)
    assert (dead.code, dead.out.splitlines()[0]) == (1, "denied: revoked")


def test_its_first_token_is_good_and_it_says_loudly_that_it_keeps_nothing() -> None:
    with running("dev", "--name", "tkdb.learning") as process:
        found = exports(process)
        assert "NOT FOR PRODUCTION" in process.stderr.readline()
        assert found["TKDB_AUTHORITY"].startswith("tkdb.learning=tkdbpub_")
        with Client(found["TKDB_URL"], found["TKDB_AUTHORITY"]) as client:
            assert client.verify(found["TKDB_TOKEN"]).organization == "dev"
    assert process.returncode == 0


def test_dev_as_json_is_one_document() -> None:
    with running("dev", "--json") as process:
        document = json.loads(process.stdout.readline())
        assert set(document) == {"url", "authority", "signer", "token"}


def test_dev_answers_plain_json(dev: dict[str, str]) -> None:
    minted = posted(dev["TKDB_URL"] + "/dev/mint", {"organization": "dev", "caveats": [["act", "r"]]})
    token = minted["result"]["token"]
    verified = posted(dev["TKDB_URL"] + "/dev/verify", {"bundles": [token]})
    assert verified["result"]["results"][0]["organization"] == "dev"
    with urllib.request.urlopen(dev["TKDB_URL"] + "/openapi.json", timeout=60) as response:  # noqa: S310  our own
        assert "paths" in json.load(response)


def test_dev_never_listens_beyond_this_machine() -> None:
    for bind in ("0.0.0.0:0", "[::]:0", "10.0.0.1:80"):
        ran = tkdb("dev", "--bind", bind)
        assert ran.code == 2
        assert "loopback only" in ran.err


def test_dev_ignores_what_would_configure_a_real_node(tmp_path: Path) -> None:
    database = tmp_path / "tkdb.db"
    with running("dev", env={"TKDB_DB": str(database), "TKDB_NAME": "production"}) as process:
        assert exports(process)["TKDB_AUTHORITY"].startswith("tkdb.dev=")
    assert not database.exists()


def test_serve_lists_all_that_is_wrong_with_its_configuration() -> None:
    ran = tkdb("serve", env={"TKDB_NAME": "tkdb.example", "TKDB_DRAIN": "1"})
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: 5 settings are wrong")
    assert "TKDB_DRAIN: there is no such setting; did you mean TKDB_DRAIN_MS?" in ran.err


def test_generated_keys_start_a_node_and_are_for_their_owner_only(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    generated = tkdb("keys", "generate", "--directory", str(keys))
    assert generated.out.split() == [str(keys / f"{name}") for name in
                                     ("authority.key", "seal.key", "signer.key", "signers.toml")]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
    assert tkdb("keys", "generate", "--directory", str(keys)).code == 2

    said = dict(word.split("=", 1) for word in generated.err.split() if word.startswith("TKDB_"))
    env = said | {"TKDB_DB": str(tmp_path / "tkdb.db"), "TKDB_BIND": "127.0.0.1:0", "TKDB_DRAIN_MS": "0"}
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


def test_nobody_there_is_exit_3(dev: dict[str, str]) -> None:
    ran = tkdb("status", "--json", env=dev | {"TKDB_URL": "http://127.0.0.1:9"})
    assert ran.code == 3
    assert set(json.loads(ran.out)["error"]) == {"code", "message", "hint"}
