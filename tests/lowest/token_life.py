"""A token's life, with the versions of the dependencies that are installed: `make lowest` installs the lowest ones.

It starts `tkdb dev` from the same environment, and mints, narrows, verifies, clears and revokes a token, blocking and
awaited. It needs only the extra ``server``, and exits with 1 at the first unexpected result.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tkdb_client import Access, AsyncClient, Client, Denied, Policy

NAMES = ("aiosqlite", "cryptography", "httpcore", "hypercorn", "msgspec", "pymacaroons", "starlette", "typer", "uvloop")
POLICY = Policy(organization="dev")
READ = Access(action="r", resource={"app": "shop"})
WRITE = Access(action="w", resource={"app": "shop"})


@contextmanager
def authority() -> Iterator[dict[str, str]]:
    """Run `tkdb dev`, and yield the variables that it prints."""
    command = [str(Path(sys.executable).with_name("tkdb")), "dev"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            exported = {}
            for line in process.stdout:
                if not line.startswith("export "):
                    break
                name, _, value = line.removeprefix("export ").strip().partition("=")
                exported[name] = value.strip("'\"")
            if "TKDB_TOKEN" not in exported:
                sys.exit(f"tkdb dev did not start:\n{line}{process.stdout.read()}")
            yield exported
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def live(url: str, identity: str, signer: str) -> None:
    """Live the life of one token with the blocking client."""
    with Client(url, identity, signer=signer, policy=POLICY) as tkdb:
        token = tkdb.mint("dev", action="rw", resource={"app": {"shop": "rw"}}, expires_in_s=60)
        child = tkdb.narrow(token, action="r", expires_in_s=30)
        verified = tkdb.verify(child.text)
        verified.clear(READ)
        if verified.allows(WRITE):
            sys.exit("a token that may only read was cleared for a write")
        tkdb.revoke(token)
        try:
            tkdb.verify(child.text)
        except Denied as denied:
            if denied.reason != "revoked":
                raise
        else:
            sys.exit("a revoked token was verified")


async def live_awaited(url: str, identity: str, signer: str) -> None:
    """Live a shorter life with the awaited client."""
    async with AsyncClient(url, identity, signer=signer, policy=POLICY) as tkdb:
        (await tkdb.verify(await tkdb.mint("dev", action="r", resource={"app": {"shop": "r"}}))).clear(READ)


def main() -> None:
    """Live one life with each client, and print the versions."""
    with authority() as exported:
        reach = exported["TKDB_URL"], exported["TKDB_AUTHORITY"], exported["TKDB_SIGNER"]
        live(*reach)
        asyncio.run(live_awaited(*reach))
    sys.stdout.write("a token's life passed with " + ", ".join(f"{name} {version(name)}" for name in NAMES) + "\n")


if __name__ == "__main__":
    main()
