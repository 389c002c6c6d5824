"""A client of one machine of the lab, past every proxy, for programs that watch the lab from outside.

    async with Direct(url, identity, attest=lambda: flycast.attestation("tkdb-syd-1")) as client:
        report = await client.status()

Machines answer only callers that a proxy attests. So each attempt carries the headers that the proxy would have added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tkdb.channel.keys import AuthorityIdentity
from tkdb_client import AsyncClient
from tkdb_client.calls.runners import AsyncRunner
from tkdb_client.calls.transport import AsyncTransport, Outcome, Send

Attest = Callable[[], Mapping[str, str]]


class Direct(AsyncClient):
    """An AsyncClient that adds headers to every attempt.

    Args:
        url: the URL of the machine.
        authority: the authority's name and public key.
        attest: returns the headers. They are new for each attempt, because a machine answers a request only once.
        options: the other arguments of AsyncClient.
    """

    def __init__(self, url: str, authority: AuthorityIdentity, *, attest: Attest, **options: Any) -> None:
        self._attest = attest
        super().__init__(url, authority, **options)

    def _new_driver(self) -> AsyncRunner:
        return AsyncRunner(_Attested(self._attest))


class _Attested(AsyncTransport):
    def __init__(self, attest: Attest) -> None:
        super().__init__()
        self._attest = attest

    async def post(self, send: Send) -> Outcome:
        return await super().post(replace(send, headers={**send.headers, **self._attest()}))
