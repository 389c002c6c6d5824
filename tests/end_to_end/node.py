"""An authority as a real process, ``tkdb serve``, with real keys in its environment."""

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
TIMEOUT_S = 60


class Keys:
    """The keys of an operator: the authority's key, the sealing secret, and the keys of two signers."""

    def __init__(self) -> None:
        self.authority = AuthoritySecret.generate(os.urandom)
        self.seal = SealKey(os.urandom(32))
        self.signer = SignerSecret.generate(os.urandom)
        self.minter = SignerSecret.generate(os.urandom)

    @property
    def identity(self) -> AuthorityIdentity:
        return AuthorityIdentity(NAME, (self.authority.public,))

    def environment(self, database: Path, **overrides: str) -> dict[str, str]:
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
        return {"PATH": os.environ["PATH"], **settings, **overrides}


class Node:
    """A running authority. The end of the ``with`` block kills it."""

    def __init__(self, database: Path, keys: Keys | None = None, **overrides: str) -> None:
        self.keys = keys or Keys()
        self.database = database
        self.log = database.with_name(f"{database.name}.log")
        self._overrides = overrides
        self.url = ""
        self.command = COMMAND

    def start(self) -> Self:
        """Start the authority, and return once it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.keys.environment(self.database, **self._overrides),
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        address = msgspec.json.decode(line)["address"]
        self.url = f"http://{address}"
        # Keep the address, so that a client finds the authority again after a crash.
        self._overrides["TKDB_BIND"] = address
        return self

    def kill(self) -> None:
        """End the process with SIGKILL, like a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Stop the process with SIGTERM, and return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def client(self, **settings: Any) -> Client:
        """Return a client without a cache, so that the authority answers every call."""
        given = {"url": self.url, "signer": self.keys.signer, "cache_bytes": 0, **settings}
        return Client(authority=self.keys.identity, **given)

    def async_client(self, **settings: Any) -> AsyncClient:
        """Return an asynchronous client without a cache."""
        given = {"url": self.url, "signer": self.keys.signer, "cache_bytes": 0, **settings}
        return AsyncClient(authority=self.keys.identity, **given)

    def holder(self) -> Client:
        """Return a client without a signer's key."""
        return self.client(signer=None)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def failed_start(environment: dict[str, str]) -> tuple[int, str]:
    """Run an authority that can't start, and return its exit code and its error output."""
    done = subprocess.run(
        COMMAND[:-1], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr
