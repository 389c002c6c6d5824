"""Tokens for Flask.

::

    tokens = Tokens(Client())
    tokens.init_app(app)

    @app.get("/apps/<app_id>")
    @tokens.require(lambda app_id: Access(action="r", resource={"app": app_id}))
    def show(token: Verified, app_id: str) -> str: ...

Routes ask for themselves. With ``access=`` the whole app is closed: nothing reaches a view that doesn't clear.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from flask import Flask, Response, current_app, g, request

from tkdb.attestation import Verifier
from tkdb.errors import ConfigurationError
from tkdb.macaroon.access import Access
from tkdb_client.client import Client
from tkdb_client.verified import Verified
from tkdb_client.web.facts import Arrived
from tkdb_client.web.gate import Gate, Visit, not_guarded
from tkdb_client.web.rejection import Answer, Rejection, Render

__all__ = ["Access", "Answer", "Rejection", "Tokens", "Verified"]

P = ParamSpec("P")
R = TypeVar("R")


class Tokens:
    """An extension of Flask: lets in who presents a token that allows what is attempted.

    Args:
        client: verifies tokens.
        access: what a request attempts; Flask's ``request`` is at hand. Then every request must clear it. Without it,
            each view asks for itself.
        exempt: whether a request needn't clear ``access``.
        attestation: verifies Fly's attestation of the app's own callers; without it no ``src`` caveat clears.
        realm: the app's name in challenges.
        render: makes the answers to rejections, in place of ours. (So may an error handler for ``Rejection``.)

    Raises:
        ConfigurationError: the client can only be awaited.
    """

    def __init__(
        self,
        client: Client,
        *,
        access: Callable[[], Access] | None = None,
        exempt: Callable[[], bool] | None = None,
        attestation: Verifier | None = None,
        realm: str = "tkdb",
        render: Render | None = None,
    ) -> None:
        if not isinstance(client, Client):
            raise ConfigurationError("Flask needs a client that blocks", hint="give a tkdb_client.Client")
        self._gate = Gate(client, attestation=attestation, realm=realm, render=render)
        self._access = access
        self._exempt = exempt

    def init_app(self, app: Flask) -> None:
        """Guard an app, its blueprints among it."""
        app.extensions["tkdb"] = self
        app.before_request(self._enter)
        app.register_error_handler(Rejection, self._answer)

    def require(
        self, access: Callable[..., Access]
    ) -> Callable[[Callable[Concatenate[Verified, P], R]], Callable[P, R]]:
        """Decorate a view that requires a token: it is called with the ``Verified`` token, then the URL's arguments.

        Args:
            access: what is attempted, from the URL's arguments. It is asked once the token is verified.
        """

        def decorate(view: Callable[Concatenate[Verified, P], R]) -> Callable[P, R]:
            @wraps(view)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
                visit = self._visit()
                token = visit.clear(visit.verified_blocking(), access(*args, **kwargs))
                result: R = current_app.ensure_sync(view)(token, *args, **kwargs)
                return result

            return guarded

        return decorate

    def cleared(self, access: Access) -> Verified:
        """Return what is trusted of the request's token, where that allows ``access``.

        Raises:
            Rejection: for the app to answer.
            ConfigurationError: the app isn't guarded: ``init_app`` wasn't called.
        """
        visit = self._visit()
        return visit.clear(visit.verified_blocking(), access)

    def _enter(self) -> None:
        g.tkdb_visit = visit = self._gate.visit(Arrived.of_environ(request.environ))
        if self._access is not None and not (self._exempt is not None and self._exempt()):
            visit.clear(visit.verified_blocking(), self._access())

    def _answer(self, rejection: Rejection) -> Response:
        answer = self._gate.answer(rejection)
        return Response(answer.body, answer.status, list(answer.headers))

    @staticmethod
    def _visit() -> Visit:
        visit: Visit | None = g.get("tkdb_visit")
        if visit is None:
            raise not_guarded()
        return visit
