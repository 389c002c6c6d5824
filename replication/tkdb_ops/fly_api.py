"""Fly's Machines API: its URL, its authorization, and its requests.

    fly = FlyApi.parse(os.environ, token)
    came = await fly.ask("GET", f"{app_path('acme-tkdb')}/machines")

Source: https://fly.io/docs/machines/api/working-with-machines-api/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Self

import msgspec

from tkdb import errors
from tkdb.net.url import Url
from tkdb_replication.bucket import http

PUBLIC: Final = "https://api.machines.dev"
INTERNAL: Final = "_api.internal"
"""The host at which machines reach the API, over the private network and without TLS."""
VARIABLES: Final = ("FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL")
"""The variables that contain the API's URL: in Fly's documentation, and in flyctl."""
TIMEOUT_MS: Final = 15_000
BODY_MAX_BYTES: Final = 1 << 24
MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The exceptions that decoding raises if an answer doesn't have the documented form."""

_TOKEN: Final = re.compile(r"(?:(?:FlyV1|Bearer)\s+)?([!-+\--~,]{8,65536})", re.IGNORECASE).fullmatch
_MACAROON: Final = re.compile(r"fm(?:1r|1a|2)_").match
_APP: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}").fullmatch


@dataclass(frozen=True, slots=True)
class FlyApi:
    """The API at ``url``, and the value of the Authorization header. The repr doesn't show that value."""

    url: Url
    authorization: str = field(repr=False)

    @classmethod
    def parse(cls, environment: Mapping[str, str], token: str) -> Self:
        """Return the API that ``environment`` names, with ``token`` as its authorization.

        The token is the output of `fly tokens create`, with or without its scheme.

        Raises:
            ConfigurationError: the URL or the token can't be used, or the token would go over a network unencrypted.
        """
        text = next(filter(None, map(environment.get, VARIABLES)), PUBLIC)
        url = Url.parse(text if "://" in text else f"https://{text}")
        if url.scheme == "http" and not _near(url.host):
            raise errors.ConfigurationError(
                f"the token would be sent to {url} unencrypted", hint=f"use https, or http://{INTERNAL}:4280"
            )
        found = _TOKEN(token.strip())
        if found is None:
            raise errors.ConfigurationError(
                "FLY_API_TOKEN isn't a token", hint="set it to the output of `fly tokens create`"
            )
        return cls(url, f"{'FlyV1' if _MACAROON(found[1]) else 'Bearer'} {found[1]}")

    async def ask(
        self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout_ms: int = TIMEOUT_MS
    ) -> http.Response | http.NoResponse:
        """Send one request, with ``body`` as JSON if it isn't None."""
        headers = {"authorization": self.authorization, "accept": "application/json"}
        content = b""
        if body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode(body)
        return await http.ask(
            method, self.url, target,
            headers=headers, body=content, timeout_ms=timeout_ms, body_max_bytes=BODY_MAX_BYTES,
        )  # fmt: skip


def app_path(app: str) -> str:
    """Return the path of an app's resources.

    Raises:
        ConfigurationError: ``app`` can't be the name of an app. The message doesn't repeat it, because it may be a
            token that was given there by mistake.
    """
    if _APP(app) is None:
        raise errors.ConfigurationError(
            "the given name can't be the name of an app", hint="give the app's name with --app"
        )
    return f"/v1/apps/{app}"


def _near(host: str) -> bool:
    if host == INTERNAL or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
