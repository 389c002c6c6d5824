"""Fly's Machines API, as far as it is read: an app's addresses and machines.

    fly = FlyApi.parse(os.environ, token)
    machines = await fly.machines("acme-tkdb")

Source: https://fly.io/docs/machines/api/working-with-machines-api/ ; lists are whole unless ``limit`` is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, Self, TypeVar

import msgspec

from tkdb import errors
from tkdb_client.transport import Url
from tkdb_replication.doctor import web
from tkdb_replication.doctor.deployment import Assignment, Assignments, Machine
from tkdb_replication.doctor.findings import Unlearned

PUBLIC: Final = "https://api.machines.dev"
INTERNAL: Final = "_api.internal"
"""Where machines reach it, over the private network and without TLS."""
VARIABLES: Final = ("FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL")
"""What its URL is called in Fly's documentation, and by flyctl."""
TIMEOUT_MS: Final = 15_000
BODY_MAX_BYTES: Final = 1 << 24

_TOKEN: Final = re.compile(r"(?:(?:FlyV1|Bearer)\s+)?([!-+\--~,]{8,65536})", re.IGNORECASE).fullmatch
_MACAROON: Final = re.compile(r"fm(?:1r|1a|2)_").match
_APP: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}").fullmatch

T = TypeVar("T")


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
            raise errors.ConfigurationError(
                "FLY_API_TOKEN can't be right", hint="set what `fly tokens create readonly` prints"
            )
        return cls(url, f"{'FlyV1' if _MACAROON(found[1]) else 'Bearer'} {found[1]}")

    async def addresses(self, app: str) -> list[Assignment] | Unlearned:
        """Return every address that is assigned to an app."""
        found = await self._get(f"/v1/apps/{_named(app)}/ip_assignments", Assignments)
        return found if isinstance(found, Unlearned) else found.ips

    async def machines(self, app: str) -> list[Machine] | Unlearned:
        """Return an app's machines that serve."""
        found = await self._get(f"/v1/apps/{_named(app)}/machines", list[Machine])
        return found if isinstance(found, Unlearned) else [each for each in found if each.serves]

    async def _get(self, target: str, kind: type[T]) -> T | Unlearned:
        headers = {"authorization": self.authorization, "accept": "application/json"}
        came = await web.ask(
            "GET", self.url, target, headers=headers, timeout_ms=TIMEOUT_MS, body_max_bytes=BODY_MAX_BYTES
        )
        if isinstance(came, web.NoResponse):
            return Unlearned(f"Fly's API: {came.why}")
        if came.status != HTTPStatus.OK:
            return Unlearned(_REASONS.get(came.status, f"Fly's API answered {came.status}") + f" ({target})")
        try:
            return msgspec.json.decode(came.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Unlearned(f"Fly's API answered in another form than is documented: {str(error)[:160]} ({target})")


_REASONS: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "Fly's API doesn't accept FLY_API_TOKEN: is it expired, or another organization's?",
    HTTPStatus.FORBIDDEN: "FLY_API_TOKEN may not read this app",
    HTTPStatus.NOT_FOUND: "Fly's API knows no such app, or FLY_API_TOKEN may not see it",
    HTTPStatus.TOO_MANY_REQUESTS: "Fly's API was asked too often: try again in a moment",
}


def _named(app: str) -> str:
    if _APP(app) is None:
        raise errors.ConfigurationError("what is given can't be the name of an app", hint="give it with --app")
    return app


def _near(host: str) -> bool:
    if host == INTERNAL or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
