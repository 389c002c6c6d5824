"""A shop's API on FastAPI. The token decides which apps its holder may read or write.

Run it with any ASGI server. Put TKDB_URL and TKDB_AUTHORITY into the environment, as `tkdb dev` prints them:

    hypercorn docs/examples/fastapi_shop.py:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from tkdb_client import Access, AsyncClient, Policy
from tkdb_client.asgi import TokenMiddleware, Verified, require

tkdb = AsyncClient(policy=Policy(organization="acme", audience="shop"))
stock = {"shop": 3, "blog": 0}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await tkdb.close()


app = FastAPI(lifespan=lifespan)
app.add_middleware(TokenMiddleware, client=tkdb, realm="shop")


def reads(request: HTTPConnection) -> Access:
    return Access(action="r", resource={"app": request.path_params["app_id"]})


def writes(request: HTTPConnection) -> Access:
    return Access(action="w", resource={"app": request.path_params["app_id"]})


@app.get("/health")
async def health() -> str:
    return "ok"


@app.get("/apps/{app_id}")
async def show(app_id: str, token: Annotated[Verified, require(reads)]) -> dict[str, str | int]:
    return {"app": app_id, "stock": stock.get(app_id, 0), "organization": token.organization}


@app.put("/apps/{app_id}")
async def restock(app_id: str, count: int, token: Annotated[Verified, require(writes)]) -> dict[str, str | int]:
    stock[app_id] = count
    return {"app": app_id, "stock": count, "organization": token.organization}
