"""The services inside a stand-in, apart from its proxies: the resolver, and the signer of Fly-Src."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tkdb.attestation import Source, sign
from tkdb_ops.flycast.addresses import RESOLVER, Addresses
from tkdb_ops.flycast.environment import WORKER, Environment
from tkdb_ops.flycast.layout import Layout, Slot
from tkdb_ops.flycast.names import Names

DNS_PORT: Final = 53

_SIGNED_S: Final = 1.0


class Resolver:
    """The resolver of one region's machines.

    Args:
        names: the names that it can resolve.
        region: the region that it serves.
        started: returns the running machines.
    """

    def __init__(self, names: Names, region: str, started: Callable[[], Collection[Slot]]) -> None:
        self._names = names
        self._region = region
        self._started = started
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self, ground: Environment) -> None:
        """Start to answer at the resolver's address in the region."""
        made = await ground.socket(WORKER + self._region, socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind((RESOLVER, DNS_PORT))
        resolver = self

        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                resolver._transport = cast("asyncio.DatagramTransport", transport)

            def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
                resolver._answer(data, addr)

        await asyncio.get_running_loop().create_datagram_endpoint(Protocol, sock=made)

    def close(self) -> None:
        """Stop answering."""
        if self._transport is not None:
            self._transport.close()

    def _answer(self, query: bytes, caller: tuple[str | Any, int]) -> None:
        answer = self._names.answer(query, self._region, self._started())
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, caller)


class FlySrcSigner:
    """A signer that renews the Fly-Src of every machine each second, in a file that the machine's edge reads.

    Args:
        key: the proxy's signing key.
        layout: the machines.
        addresses: the addresses from which they call.
        folder: the folder of the files. A file's name is the caller's address.
        org: the organization of all machines.
        now_s: the time, seconds since 1970.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        layout: Layout,
        addresses: Addresses,
        folder: Path,
        *,
        org: str,
        now_s: Callable[[], float],
    ) -> None:
        self._key = key
        self._callers = [(slot, source) for slot in layout.machines if (source := addresses.source(slot))]
        self._folder = folder
        self._org = org
        self._now_s = now_s
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Sign every Fly-Src now, and renew it until the signer is closed."""
        self._folder.mkdir()
        self._sign()
        self._task = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Stop signing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_SIGNED_S)
            self._sign()

    def _sign(self) -> None:
        for slot, address in self._callers:
            source, signature = sign(self._key, Source(slot.id, slot.app, self._org, int(self._now_s())))
            new = self._folder / "new"
            new.write_text(f"{source}\n{signature}\n", "ascii")
            new.replace(self._folder / address)  # Replaced atomically, so an edge never reads half of a file.
