"""A caller that sends each request once, to one machine. If a client would retry, this caller raises an error.

So a bench measures the machines, and not the client's backoff between attempts.
"""

from __future__ import annotations

import http.client
import os
import time
from types import TracebackType
from typing import Self, TypeVar

from tests.end_to_end.node import Node
from tkdb import api, errors
from tkdb.channel.client import Initiator

R = TypeVar("R")


class Caller:
    """A caller of ``node``, as a signer. It keeps its connection until the end of the ``with`` block."""

    def __init__(self, node: Node, *, timeout_ms: int = 1_500) -> None:
        address = node.url.removeprefix("http://")
        self._connection = http.client.HTTPConnection(address, timeout=timeout_ms / 1_000)
        self._initiator = Initiator(node.keys.identity, signer=node.keys.signer, random=os.urandom)

    def ask(self, path: str, call: api.Call[R]) -> R:
        """Return the result of ``call``.

        Raises:
            TkdbError: the request failed.
        """
        now_ms = time.time_ns() // 1_000_000
        sealed = self._initiator.seal(path, api.encode(call), request_id=os.urandom(16), now_ms=now_ms)
        try:
            self._connection.request("POST", path, sealed.message, sealed.headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise errors.Unavailable(f"no answer came: {type(error).__name__}") from None
        if response.status != 200:
            raise errors.Unavailable(f"the answer was {response.status}")
        return api.decode_result(call, api.decode_answer(sealed.open(body)))

    def revoke(self, kid: bytes) -> None:
        """Revoke a lineage that no token was minted in. Its entry is as long as that of any single revocation."""
        lineage = api.Lineage(kid, (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))
        self.ask(api.WRITE, api.Revoke([lineage]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
