"""The FastAPI part of `tkdb_client.asgi.require`: a dependency that the OpenAPI document shows as a bearer token."""

# No postponed annotations: FastAPI reads a dependency's own annotations.
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from tkdb_client.verified import Verified

Token = Callable[[HTTPConnection], Awaitable[Verified | None]]


class Bearer(SecurityBase):
    """A dependency that yields the verified token.

    Args:
        token: requires it of a request.
    """

    def __init__(self, token: Token) -> None:
        self.model = HTTPBearer(bearerFormat="macaroon", description="A token of tkdb, or its bundle.")
        self.scheme_name = "tkdb"
        self._token = token

    async def __call__(self, connection: HTTPConnection) -> Verified | None:
        return await self._token(connection)


def depends(token: Token) -> Any:
    """Return a parameter's default that makes FastAPI call ``token``, without caching, because accesses differ."""
    return Depends(Bearer(token), use_cache=False)
