"""A shop's API on Flask. The token decides which apps its holder may read or write.

Run it with any WSGI server. Put TKDB_URL and TKDB_AUTHORITY into the environment, as `tkdb dev` prints them:

    flask --app docs/examples/flask_shop.py run
"""

from __future__ import annotations

from flask import Flask, request

from tkdb_client import Access, Client, Policy
from tkdb_client.flask import Tokens, Verified

tokens = Tokens(Client(policy=Policy(organization="acme", audience="shop")), realm="shop")
stock = {"shop": 3, "blog": 0}

app = Flask(__name__)
tokens.init_app(app)


def reads(app_id: str) -> Access:
    return Access(action="r", resource={"app": app_id})


def writes(app_id: str) -> Access:
    return Access(action="w", resource={"app": app_id})


@app.get("/health")
def health() -> str:
    return "ok"


@app.get("/apps/<app_id>")
@tokens.require(reads)
def show(token: Verified, app_id: str) -> dict[str, str | int]:
    return {"app": app_id, "stock": stock.get(app_id, 0), "organization": token.organization}


@app.put("/apps/<app_id>")
@tokens.require(writes)
def restock(token: Verified, app_id: str) -> dict[str, str | int]:
    stock[app_id] = int(request.args["count"])
    return {"app": app_id, "stock": stock[app_id], "organization": token.organization}
