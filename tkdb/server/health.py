"""``/livez``: the process is up. ``/readyz``: a proxy may send requests here; if not, the body says why."""

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
