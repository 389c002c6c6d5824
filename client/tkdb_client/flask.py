"""Tokens for Flask.

::

    tokens = Tokens(Client(), organization="acme")
    tokens.init_app(app)

    @app.get("/apps/<app_id>")
    @tokens.require(lambda app_id: Access(action="r", resource={"app": app_id}))
    def show(token: Verified, app_id: str) -> str: ...

Each route demands its own access. With ``closed=True`` only requests with a verified token of the app's organization
reach a view, and views clear.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from flask import Flask, Response, current_app, request

from tkdb.attestation import Verifier
from tkdb.errors import ConfigurationError
from tkdb.macaroon.access import Access, AnyOrganization
from tkdb_client.client import Client
from tkdb_client.verified import Verified
from tkdb_client.web.facts import Arrived
from tkdb_client.web.gate import KEY, Guard, Visit, not_guarded
from tkdb_client.web.rejection import Answer, Rejection, Render

__all__ = ["Access", "Answer", "Rejection", "Tokens", "Verified"]

P = ParamSpec("P")
R = TypeVar("R")


class Tokens:
    """A Flask extension that accepts requests whose token allows the access.

    Args:
        client: verifies tokens.
        organization: the organization whose data the app holds; tokens of others never clear. An app that holds data of
            several leaves it out, and names the organization in each access. Default: the client's policy's.
        closed: whether only requests with a verified token reach a view: one of the app's organization that isn't
            expired. Views clear its other caveats.
        access: returns an access, which every request must clear, too; it can use Flask's ``request``. It closes the
            app.
        exempt: returns True for a request that needs no token.
        attestation: verifies Fly's attestation of the app's own callers. Without it, no ``src`` caveat clears.
        realm: the app's name in challenges.
        render: makes the responses to rejections, in place of tkdb's. (An error handler for ``Rejection`` also can.)

    Raises:
        ConfigurationError: the client is an AsyncClient.
    """

    def __init__(
        self,
        client: Client,
        *,
        organization: str | AnyOrganization | None = None,
        closed: bool = False,
        access: Callable[[], Access] | None = None,
        exempt: Callable[[], bool] | None = None,
        attestation: Verifier | None = None,
        realm: str = "tkdb",
        render: Render | None = None,
    ) -> None:
        if not isinstance(client, Client):
            raise ConfigurationError("Flask needs a client that blocks", hint="give a tkdb_client.Client")
        self._gate = Guard(client, organization=organization, attestation=attestation, realm=realm, render=render)
        self._closed = closed or access is not None
        self._access = access
        self._exempt = exempt

    def init_app(self, app: Flask) -> None:
        """Guard an app with all its blueprints."""
        app.extensions["tkdb"] = self
        app.before_request(self._enter)
        app.after_request(self._leave)
        app.register_error_handler(Rejection, self._answer)

    def require(
        self, access: Callable[..., Access]
    ) -> Callable[[Callable[Concatenate[Verified, P], R]], Callable[P, R]]:
        """Decorate a view that requires a token. It is called with the ``Verified`` token, then the URL's arguments.

        Args:
            access: returns the access, from the URL's arguments. It is called once the token is verified.
        """

        def decorate(view: Callable[Concatenate[Verified, P], R]) -> Callable[P, R]:
            @wraps(view)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
                visit = self._visit()
                token = visit.clear(visit.verified_blocking(), access(*args, **kwargs), _live())
                result: R = current_app.ensure_sync(view)(token, *args, **kwargs)
                return result

            return guarded

        return decorate

    def cleared(self, access: Access) -> Verified:
        """Return the verified token of the request, if it allows ``access``.

        Raises:
            Rejection: for the app to answer.
            ConfigurationError: the app isn't guarded, because ``init_app`` wasn't called.
        """
        visit = self._visit()
        return visit.clear(visit.verified_blocking(), access, _live())

    def cleared_if_presented(self, access: Access) -> Verified | None:
        """As ``cleared``, but return None if the request presents no token. A token that is presented must clear."""
        return self.cleared(access) if self._visit().has_token else None

    def _enter(self) -> None:
        # The visit is kept on Flask's request: `g` is shared with a test client's request inside a view, and an
        # environment is shared with an app that a view calls.
        visit = self._gate.visit(_live(), outer=request.environ.get(KEY))
        request.environ[KEY] = request.tkdb_visit = visit  # type: ignore[attr-defined]  # our attribute
        if not self._closed or (self._exempt is not None and self._exempt()):
            return
        token = visit.verified_blocking()
        if self._access is None:
            visit.admit(token, _live())
        else:
            visit.clear(token, self._access(), _live())

    def _leave(self, response: Response) -> Response:
        """Return the response, or the rejection that an error handler of the app has turned into its own error."""
        visit: Visit | None = getattr(request, "tkdb_visit", None)
        if visit is None or visit.rejection is None or response.status_code < 500:
            return response
        return self._answer(visit.rejection)

    def _answer(self, rejection: Rejection) -> Response:
        answer = self._gate.answer(rejection)
        return Response(answer.body, answer.status, list(answer.headers))

    @staticmethod
    def _visit() -> Visit:
        visit: Visit | None = getattr(request, "tkdb_visit", None)
        if visit is None:
            raise not_guarded()
        return visit


def _live() -> Arrived:
    """Return the request as it is now. Flask routes by the environment, and views read ``request.method``."""
    return Arrived.of_environ(request.environ, method=request.method)
