"""Tokens are exchanged with the npm package ``macaroon`` (js-macaroon), in both directions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import urlsafe_b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.macaroon.forge import KID, NAME, NOW_MS, ROOT_KEY, Authority, write_packets
from tkdb.errors import BadSignature, DischargeMissing
from tkdb.macaroon.caveats import Act, AnyCaveat, App, Aud, Exp, Res, Sub, encode
from tkdb.macaroon.identifier import build
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import ThirdParty

HERE = Path(__file__).parent
LOCK = HERE / "package-lock.json"
NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED")
EXP = Exp(NOW_MS // 1000 + 3600)
LONG = App("long", "é" * 500)


@pytest.fixture(scope="module")
def modules(request: pytest.FixtureRequest) -> Path:
    """The Node modules of the lock file, installed once and kept in pytest's cache."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    assert request.config.cache is not None
    home = request.config.cache.mkdir(f"interop-{sha256(LOCK.read_bytes()).hexdigest()[:16]}")
    if not (home / "installed").exists():
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, home)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=120, check=False)
        if any(word in done.stderr for word in NO_NETWORK):
            pytest.skip("the npm registry can't be reached")
        assert done.returncode == 0, done.stderr
        (home / "installed").touch()
    return home / "node_modules"


class Peer:
    """js-macaroon: collects steps, and runs them in one process."""

    def __init__(self, modules: Path) -> None:
        self._modules = modules
        self._todo: list[dict[str, str]] = []

    def then(self, step: str, **arguments: bytes | str) -> Peer:
        self._todo.append({"step": step} | {k: v.hex() if isinstance(v, bytes) else v for k, v in arguments.items()})
        return self

    def run(self, verify_with: bytes | None = None) -> Any:
        order = json.dumps({"todo": self._todo, "verifyWith": verify_with and verify_with.hex()})
        environment = {**os.environ, "NODE_PATH": str(self._modules)}
        command = ["node", str(HERE / "peer.js")]
        done = subprocess.run(
            command, input=order, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        raw = from_json(answer["json"])
        assert answer["binary"] in {None, raw.hex()}
        return answer | {"raw": raw}


def from_json(token: dict[str, Any]) -> bytes:
    """Return the binary encoding of a token that is given in libmacaroons' JSON, version 2."""

    def value(of: dict[str, Any], name: str) -> bytes:
        return urlsafe_b64decode(of[f"{name}64"] + "==") if f"{name}64" in of else of.get(name, "").encode()

    packets = [
        ThirdParty(value(c, "l"), value(c, "i"), value(c, "v")) if "l" in c else value(c, "i") for c in token["c"]
    ]
    return write_packets(value(token, "l"), value(token, "i"), packets, value(token, "s"))


@pytest.fixture
def peer(modules: Path) -> Peer:
    return Peer(modules)


def test_the_lock_file_names_only_the_npm_registry() -> None:
    packages = json.loads(LOCK.read_text())["packages"]
    assert packages["node_modules/macaroon"]["version"] == "3.0.4"
    for name, package in packages.items():
        if name:
            assert package["integrity"].startswith("sha512-")
            assert urlsplit(package.get("resolved", "https://registry.npmjs.org/")).netloc == "registry.npmjs.org"


def test_their_tokens_verify_here(peer: Peer) -> None:
    caveats: list[AnyCaveat] = [EXP, Sub("kim"), Res("app", {"shop": "rw"}), LONG]
    identifier = build(kid=KID, time_ms=NOW_MS, random=b"randomness", m=2)
    peer.then("mint", rootKey=ROOT_KEY, identifier=identifier, location=NAME)
    for caveat in caveats:
        peer.then("attenuate", caveat=encode(caveat))
    raw = peer.run()["raw"]
    verified = Authority().verify(raw)
    assert (verified.subject, verified.caveats) == ("kim", tuple(caveats))
    assert verified.macaroon == Authority().mint(*caveats[:2]).narrow(*caveats[2:])
    assert Authority().verify(Macaroon.parse(raw).narrow(Act("r"))).caveats[-1] == Act("r")


def test_our_tokens_verify_there(peer: Peer) -> None:
    token = Authority().mint(EXP, Sub("kim"), LONG).narrow(Act("r"), Aud("billing"))
    answer = peer.then("import", raw=token.raw).run(verify_with=ROOT_KEY)
    assert answer["error"] is None
    assert answer["raw"] == token.raw
    assert [text.encode() for text in answer["seen"]] == list(token.packets)


def test_our_token_under_another_key_does_not_verify_there(peer: Peer) -> None:
    answer = peer.then("import", raw=Authority().mint().raw).run(verify_with=b"x" * 32)
    assert "signature mismatch" in answer["error"]


def test_our_token_attenuated_there_verifies_here(peer: Peer) -> None:
    token = Authority().mint(EXP)
    peer.then("import", raw=token.raw).then("attenuate", caveat=encode(Act("r"))).then("attenuate", caveat=encode(LONG))
    answer = peer.run()
    raw = answer["raw"]
    assert answer["binary"] == raw.hex() == token.narrow(Act("r"), LONG).raw.hex()
    assert Authority().verify(raw).caveats == (EXP, Act("r"), LONG)
    with pytest.raises(BadSignature):
        Authority().verify(raw[:-32] + token.tail)


def test_a_third_party_caveat_added_there_is_kept_and_needs_a_discharge(peer: Peer) -> None:
    token = Authority().mint(EXP)
    peer.then("import", raw=token.raw)
    raw = peer.then("delegate", rootKey=b"shared", ticket=b"t" * 300, location="https://login.example").run()["raw"]
    read = Macaroon.parse(raw)
    third = read.packets[-1]
    assert isinstance(third, ThirdParty)
    assert (third.location, third.ticket, len(third.vid)) == (b"https://login.example", b"t" * 300, 72)
    child = read.narrow(Act("r"))
    assert child.raw.startswith(raw[:-35])
    with pytest.raises(DischargeMissing, match="caveat 2"):
        Authority().verify(child)
