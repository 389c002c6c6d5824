"""What proxies and alarms ask. Where the answer is no, the body says why.

``/livez``              the process is up
``/readyz``             a proxy may send requests here
``/livez/replication``  nobody has to look after the machines: one takes writes, this one follows and knows the time,
                        backups are kept up
"""

from __future__ import annotations

from typing import Final

from tkdb.server.asgi import Header, Receive, Scope, Send, respond
from tkdb.server.lifecycle import Lifecycle

_TEXT: Final = b"text/plain; charset=utf-8"
_FRESH: Final[Header] = (b"cache-control", b"no-store")


class Live:
    """200 for as long as the process can answer at all; it never asks the database."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, _TEXT, b"live\n", headers=(_FRESH,))


class Ready:
    """200, or the problem that says why not."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._lifecycle.check_ready()
        await respond(send, 200, _TEXT, b"ready\n", headers=(_FRESH,))


class Replicating:
    """200, or the problem that says what is wrong. It is for alarms: a machine may well answer meanwhile."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._lifecycle.check_replication()
        await respond(send, 200, _TEXT, b"replicating\n", headers=(_FRESH,))
