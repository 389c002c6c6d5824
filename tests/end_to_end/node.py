"""An authority as a process of its own, ``tkdb serve``, with real keys in its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import msgspec

from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.journal.seal import SealKey
from tkdb_client import AsyncClient, Client

NAME = "tkdb.example"
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tkdb.cli", "serve", "--json"]
PATIENCE_S = 60


class Keys:
    """What an operator has made: the authority's key, the sealing secret, and two signers."""

    def __init__(self) -> None:
        self.authority = AuthoritySecret.generate(os.urandom)
        self.seal = SealKey(os.urandom(32))
        self.signer = SignerSecret.generate(os.urandom)
        self.minter = SignerSecret.generate(os.urandom)

    @property
    def identity(self) -> AuthorityIdentity:
        return AuthorityIdentity(NAME, (self.authority.public,))

    def environment(self, database: Path, **further: str) -> dict[str, str]:
        signers = "".join(
            f'[[signer]]\nname = "{name}"\nkey = "{secret.public.text()}"\norganizations = ["{organizations}"]\n'
            f"may = {may}\n"
            for name, secret, organizations, may in (
                ("operator", self.signer, "*", '["mint", "revoke", "organizations", "reseal", "promote"]'),
                ("minter", self.minter, "acme", '["mint"]'),
            )
        )
        settings = {
            "TKDB_NAME": NAME,
            "TKDB_AUTHORITY_KEY": self.authority.text(),
            "TKDB_SEAL_KEYS": self.seal.text(),
            "TKDB_SIGNERS": signers,
            "TKDB_DB": str(database),
            "TKDB_BIND": "127.0.0.1:0",
            "TKDB_DRAIN_MS": "200",
            "TKDB_LOG_LEVEL": "debug",
        }
        return {"PATH": os.environ["PATH"], **settings, **further}


class Node:
    """A running authority. Leaving the ``with`` ends it."""

    def __init__(self, database: Path, keys: Keys | None = None, **further: str) -> None:
        self.keys = keys or Keys()
        self.database = database
        self.log = database.with_name(f"{database.name}.log")
        self._further = further
        self.url = ""
        self.command = COMMAND

    def start(self) -> Self:
        """Start it; return once it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.keys.environment(self.database, **self._further),
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, self.log.read_text()
        address = msgspec.json.decode(said)["address"]
        self.url = f"http://{address}"
        # Once it is known it stays: whoever comes after a crash finds the authority where it was.
        self._further["TKDB_BIND"] = address
        return self

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it by plan; return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def client(self, **settings: Any) -> Client:
        """A client that keeps nothing: what is tested here is the authority."""
        given = {"url": self.url, "signer": self.keys.signer, "cache_bytes": 0, **settings}
        return Client(authority=self.keys.identity, **given)

    def async_client(self, **settings: Any) -> AsyncClient:
        """The same, awaited."""
        given = {"url": self.url, "signer": self.keys.signer, "cache_bytes": 0, **settings}
        return AsyncClient(authority=self.keys.identity, **given)

    def holder(self) -> Client:
        """A client without a signer's key."""
        return self.client(signer=None)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def failed_start(environment: dict[str, str]) -> tuple[int, str]:
    """Run an authority that can't start; return its exit code and what it says."""
    done = subprocess.run(
        COMMAND[:-1], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr
