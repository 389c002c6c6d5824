"""The health checks for proxies and alarms. If a check fails, the body gives the reason.

``/livez``              the process is up
``/readyz``             a proxy may send requests here
``/livez/replication``  no operator needs to act: one machine takes writes, this one follows it and knows the time, and
                        the backups are up to date
"""

from __future__ import annotations

from typing import Final

from tkdb.server.asgi import Header, Receive, Scope, Send, respond
from tkdb.server.lifecycle import Lifecycle

_TEXT: Final = b"text/plain; charset=utf-8"
_FRESH: Final[Header] = (b"cache-control", b"no-store")


class Live:
    """The answer 200, as long as the process can answer at all. It never reads the database."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, _TEXT, b"live\n", headers=(_FRESH,))


class Ready:
    """The answer 200, or the problem with the reason why the machine isn't ready."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._lifecycle.check_ready()
        await respond(send, 200, _TEXT, b"ready\n", headers=(_FRESH,))


class Replicating:
    """The answer 200, or the problem with the fault. It is for alarms: the machine may still answer requests."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._lifecycle.check_replication()
        await respond(send, 200, _TEXT, b"replicating\n", headers=(_FRESH,))
