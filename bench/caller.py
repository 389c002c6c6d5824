"""A caller that asks one machine, and asks once: what a client would send again is raised.

So what is measured is the machines, and not the client's backoff between its attempts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from tests.end_to_end.node import Node
from tkdb import api, errors
from tkdb.macaroon.access import Policy
from tkdb_client.exchange import Clock, Exchange, Steps, Timing
from tkdb_client.operations import Operations
from tkdb_client.transport import Transport, Url

T = TypeVar("T")


class Caller:
    """Asks ``node``, as a signer. It keeps its connection; end it with the ``with``."""

    def __init__(self, node: Node, *, timeout_ms: int = 1_500) -> None:
        timing = Timing(attempt_timeout_ms=timeout_ms)
        exchange = Exchange(
            Url.parse(node.url),
            node.keys.identity,
            signer=node.keys.signer,
            timing=timing,
            clock=Clock(),
            random=os.urandom,
        )
        self._operations = Operations(exchange, Policy(clock=time.time))
        self._transport = Transport()

    def ask(self, method: Callable[[Operations], Steps[T]]) -> T:
        """Return what the first attempt gives.

        Raises:
            TkdbError: it gives nothing.
        """
        steps = method(self._operations)
        try:
            steps.send(self._transport.post(next(steps)))  # type: ignore[arg-type]  # a call begins by sending
        except StopIteration as end:
            result: T = end.value
            return result
        steps.close()
        raise errors.Unavailable("the machine didn't do it")

    def revoke(self, kid: bytes) -> None:
        """Have a lineage revoked that nothing was minted in: an entry as long as any single revocation's."""
        self.ask(lambda operations: operations.revoke_many([new_lineage(kid)]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()


def new_lineage(kid: bytes) -> api.Lineage:
    """Return a lineage under the root key ``kid``, begun now."""
    return api.Lineage(kid, (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))
