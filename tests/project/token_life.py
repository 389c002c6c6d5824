"""The life of a token against a real `tkdb dev`: mint, narrow, verify, clear, revoke.

It needs only an installation of tkdb, and runs with that installation's Python. ``make lowest`` runs it with the lowest
versions that pyproject.toml allows.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from tkdb import errors
from tkdb_client import Access, AsyncClient, Client, Policy

TKDB = Path(sys.executable).with_name("tkdb")
READ, WRITE = Access(action="r"), Access(action="w")


@contextmanager
def dev() -> Iterator[dict[str, Any]]:
    """Run `tkdb dev`. Give the values that it prints."""
    process = subprocess.Popen([TKDB, "dev", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        printed, found = "", None
        while found is None:
            line = process.stdout.readline()
            assert line, f"tkdb dev ended: {printed}"
            printed += line
            with suppress(ValueError):  # there are more lines
                found = json.loads(printed)
        yield found
    finally:
        process.terminate()
        process.wait(30)


def raises(kind: type[Exception], call: Any, *arguments: Any) -> None:
    """Check that a call raises an error of ``kind``."""
    try:
        call(*arguments)
    except kind:
        return
    raise AssertionError(f"{call} raises no {kind.__name__}")


def blocking(found: dict[str, Any]) -> None:
    """Live a token's life with a Client."""
    policy = Policy(organization="dev")
    with Client(found["url"], found["authority"], signer=found["signer"], policy=policy) as client:
        minted = client.mint("dev")
        narrowed = client.narrow(minted, act="r")
        client.verify(minted).clear(WRITE)
        client.verify(narrowed).clear(READ)
        raises(errors.CaveatUnmet, client.verify(narrowed).clear, WRITE)
        assert client.revoke(minted) is False
        raises(errors.RevokedToken, client.verify, narrowed)
        assert [each.name for each in client.list_organizations()] == ["dev"]


async def awaited(found: dict[str, Any]) -> None:
    """Live a token's life with an AsyncClient."""
    policy = Policy(organization="dev")
    async with AsyncClient(found["url"], found["authority"], signer=found["signer"], policy=policy) as client:
        minted = await client.mint("dev")
        (await client.verify(client.narrow(minted, act="r"))).clear(READ)
        assert await client.revoke(minted) is False
        try:
            await client.verify(minted)
        except errors.RevokedToken:
            return
        raise AssertionError("a revoked token was accepted")


def main() -> None:
    """Live a token's life with both clients, and print the versions of the direct dependencies."""
    with dev() as found:
        blocking(found)
        asyncio.run(awaited(found))
    needed = {re.split(r"[^\w-]", each)[0] for each in requires("tkdb") or () if "'lab'" not in each} - {"tkdb"}
    lines = [*(f"{name} {version(name)}" for name in sorted(needed)), "a token's life: ok"]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
