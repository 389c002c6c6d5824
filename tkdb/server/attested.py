"""The check of callers: with a verifier, only callers that Fly's proxy attests may send requests to ``/v1/``.

This is defence in depth. The attestation clears no caveat and replaces no signature. Its only other effect is that the
places of requests are shared fairly among the attested apps (`tkdb.server.limits`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Final

from starlette.types import ASGIApp

from tkdb import errors, logs
from tkdb.attestation import Presented, Verifier, parse_public_key
from tkdb.server import problems
from tkdb.server.asgi import APP, Receive, Scope, Send
from tkdb.server.problems import ProblemError
from tkdb.settings import Settings

_GUARDED: Final = "/v1/"


class Attested:
    """The middleware that answers a request to ``/v1/`` without an attestation with the problem "not attested".

    Args:
        app: the app that answers all other requests.
        verifier: checks the attestations.
        now_ms: the wall clock, milliseconds since 1970.
    """

    def __init__(self, app: ASGIApp, verifier: Verifier, now_ms: Callable[[], int]) -> None:
        self._app = app
        self._verifier = verifier
        self._now_ms = now_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_GUARDED):
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        peer = scope["client"][0] if scope["client"] else ""
        try:
            source = self._verifier.verify(Presented.from_headers(peer, scope["headers"]), now_s=self._now_ms() / 1000)
        except errors.NotPermitted as error:
            # It is safe to log the reasons: they are fixed texts, and contain nothing from the headers.
            logs.event(logging.INFO, "not attested", reason=error.message)
            raise ProblemError(problems.NOT_ATTESTED, str(error), close=True) from None
        scope[APP] = f"{source.org}/{source.app}"


def verifier_of(settings: Settings, proxies: IPv4Network) -> Verifier | None:
    """Return the verifier of callers that ``settings`` require, or None if they require none.

    Raises:
        ConfigurationError: the proxy's public key can't be read.
    """
    if not settings.fly_src_required:
        return None
    path = settings.fly_src_key_file
    try:
        key = parse_public_key(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it isn't ASCII text"
        raise errors.ConfigurationError(
            f"the public key of Fly-Src in {path} can't be read: {cause}", hint="set TKDB_FLY_SRC_KEY_FILE"
        ) from None
    return Verifier(key, apps=settings.fly_src_apps, orgs=settings.fly_src_orgs, proxies=proxies)
