"""A shop's API on Starlette. The token decides which apps its holder may read or write.

Run it with any ASGI server. Put TKDB_URL and TKDB_AUTHORITY into the environment, as `tkdb dev` prints them:

    hypercorn docs/examples/starlette_shop.py:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tkdb_client import Access, AsyncClient, Policy
from tkdb_client.asgi import TokenMiddleware, cleared

tkdb = AsyncClient(policy=Policy(organization="acme", audience="shop"))
stock = {"shop": 3, "blog": 0}


async def health(_: Request) -> Response:
    return PlainTextResponse("ok")


async def show(request: Request) -> Response:
    app_id = request.path_params["app_id"]
    token = await cleared(request, Access(action="r", resource={"app": app_id}))
    return JSONResponse({"app": app_id, "stock": stock.get(app_id, 0), "organization": token.organization})


async def restock(request: Request) -> Response:
    app_id = request.path_params["app_id"]
    token = await cleared(request, Access(action="w", resource={"app": app_id}))
    stock[app_id] = int(request.query_params["count"])
    return JSONResponse({"app": app_id, "stock": stock[app_id], "organization": token.organization})


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    yield
    await tkdb.close()


app = Starlette(
    routes=[
        Route("/health", health),
        Route("/apps/{app_id}", show, methods=["GET"]),
        Route("/apps/{app_id}", restock, methods=["PUT"]),
    ],
    middleware=[Middleware(TokenMiddleware, client=tkdb, realm="shop")],
    lifespan=lifespan,
)
