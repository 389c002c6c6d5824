"""Fly's Machines API: where it is, and how it is asked.

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
"""Where machines reach it, over the private network and without TLS."""
VARIABLES: Final = ("FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL")
"""What its URL is called in Fly's documentation, and by flyctl."""
TIMEOUT_MS: Final = 15_000
BODY_MAX_BYTES: Final = 1 << 24
MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading an answer raises that isn't of the documented form."""

_TOKEN: Final = re.compile(r"(?:(?:FlyV1|Bearer)\s+)?([!-+\--~,]{8,65536})", re.IGNORECASE).fullmatch
_MACAROON: Final = re.compile(r"fm(?:1r|1a|2)_").match
_APP: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}").fullmatch


@dataclass(frozen=True, slots=True)
class FlyApi:
    """The API at ``url``, and the value of Authorization that it is asked with, which no text shows."""

    url: Url
    authorization: str = field(repr=False)

    @classmethod
    def parse(cls, environment: Mapping[str, str], token: str) -> Self:
        """Return the API that ``environment`` names, asked with ``token``: one of `fly tokens create`, with its scheme
        or without.

        Raises:
            ConfigurationError: one can't be used; or the token would go over a network in the clear.
        """
        text = next(filter(None, map(environment.get, VARIABLES)), PUBLIC)
        url = Url.parse(text if "://" in text else f"https://{text}")
        if url.scheme == "http" and not _near(url.host):
            raise errors.ConfigurationError(
                f"{url} would be sent the token in the clear", hint=f"use https, or http://{INTERNAL}:4280"
            )
        found = _TOKEN(token.strip())
        if found is None:
            raise errors.ConfigurationError("FLY_API_TOKEN can't be right", hint="set what `fly tokens create` prints")
        return cls(url, f"{'FlyV1' if _MACAROON(found[1]) else 'Bearer'} {found[1]}")

    async def ask(
        self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout_ms: int = TIMEOUT_MS
    ) -> http.Response | http.NoResponse:
        """Send one request, with ``body`` as JSON where there is one."""
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
    """Return the path under which all of an app's resources are.

    Raises:
        ConfigurationError: that can't be the name of an app. It isn't repeated: a token is given there by mistake.
    """
    if _APP(app) is None:
        raise errors.ConfigurationError("what is given can't be the name of an app", hint="give it with --app")
    return f"/v1/apps/{app}"


def _near(host: str) -> bool:
    if host == INTERNAL or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
