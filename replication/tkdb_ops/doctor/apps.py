"""Fly's records of an app: its addresses and its machines.

    listed = await machines(FlyApi.parse(os.environ, token), "acme-tkdb")

Source: https://fly.io/docs/machines/api/machines-resource/ . Lists are complete unless the request has a ``limit``.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec

from tkdb_ops.doctor.deployment import Assignment, Assignments, DeployedMachine
from tkdb_ops.doctor.findings import Unlearned
from tkdb_ops.fly_api import MALFORMED, FlyApi, app_path
from tkdb_replication.bucket import http

T = TypeVar("T")


async def addresses(fly: FlyApi, app: str) -> list[Assignment] | Unlearned:
    """Return every address that is assigned to an app."""
    found = await _get(fly, f"{app_path(app)}/ip_assignments", Assignments)
    return found if isinstance(found, Unlearned) else found.ips


async def machines(fly: FlyApi, app: str) -> list[DeployedMachine] | Unlearned:
    """Return an app's machines that serve."""
    found = await _get(fly, f"{app_path(app)}/machines", list[DeployedMachine])
    return found if isinstance(found, Unlearned) else [each for each in found if each.serves]


async def _get(fly: FlyApi, target: str, kind: type[T]) -> T | Unlearned:
    came = await fly.ask("GET", target)
    if isinstance(came, http.NoResponse):
        return Unlearned(f"Fly's API: {came.why}")
    if came.status != HTTPStatus.OK:
        return Unlearned(_REASONS.get(came.status, f"Fly's API answered {came.status}") + f" ({target})")
    try:
        return msgspec.json.decode(came.body, type=kind)
    except MALFORMED as error:
        return Unlearned(f"Fly's API returned an answer of an undocumented form: {str(error)[:160]} ({target})")


_REASONS: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "Fly's API doesn't accept FLY_API_TOKEN: is it expired, or for another organization?",
    HTTPStatus.FORBIDDEN: "FLY_API_TOKEN may not read this app",
    HTTPStatus.NOT_FOUND: "Fly's API knows no such app, or FLY_API_TOKEN may not see it",
    HTTPStatus.TOO_MANY_REQUESTS: "Fly's API got too many requests: try again in a moment",
}
