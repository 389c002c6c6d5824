"""Noise over HTTP: message 1 is the body of a request, and message 2 the body of its response. There is no session.

::

    -> e, es, s, ss        the request, sealed to the authority                POST /v1/verify, 200
    <- e, ee, se           the answer or denial, sealed to the caller          application/octet-stream

A message that can't be opened gets the problem "handshake", for any cause. All other outcomes are inside message 2,
including the one that another machine is primary. The header of that response asks a proxy to replay the request on the
primary (`tkdb.server.replay`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tkdb import api, errors, logs
from tkdb.channel.envelope import check_time
from tkdb.channel.server import Opened, Responder
from tkdb.failure import Failure
from tkdb.ports import Caller, Service
from tkdb.server import problems, replay
from tkdb.server.asgi import Header, Receive, Scope, Send, respond
from tkdb.server.lifecycle import Lifecycle
from tkdb.server.methods import name_of
from tkdb.server.problems import ProblemError
from tkdb.server.work import Work
from tkdb.signers import Signers

CONTENT_TYPE: Final = b"application/octet-stream"
_HEADERS: Final[tuple[Header, ...]] = ((b"cache-control", b"no-store"),)
# A successful read is logged only at DEBUG: at 1,000 reads a second, their lines would hide all others.
_QUIET: Final = frozenset({"verify", "revocations", "status"})
_TIMED: Final = (api.Verify, api.Mint)
"""The calls that depend on the time and change nothing, so that another machine can answer them as well."""


class Exchange:
    """The endpoint of all Noise paths.

    Args:
        lifecycle: holds the service, once it is open.
        work: the limits that all requests share.
        signers: the permissions of each signer.
        now_ms: the wall clock, milliseconds since 1970.
    """

    def __init__(self, lifecycle: Lifecycle, work: Work, signers: Signers, now_ms: Callable[[], int]) -> None:
        self._lifecycle = lifecycle
        self._work = work
        self._signers = signers
        self._now_ms = now_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path: str = scope["path"]
        message = await self._work.read(scope, receive)
        may_pass_on = not replay.passed_on(scope)
        # A write would reach a replica, which may not pass it on to the primary again.
        overloaded = (replay.ELSEWHERE,) if may_pass_on and path not in api.WRITING_PATHS else ()
        with self._work.enter(scope, overloaded=overloaded) as place:
            service, responder = self._lifecycle.serving()
            opened = _open(responder, path, scope, message)
            method, outcome, primary = path, "ok", None
            headers = _HEADERS
            try:
                primary = service.replay_to(path) if may_pass_on else None
                if primary is not None:  # before the request is decoded, because the primary may have a newer version
                    headers = (*_HEADERS, replay.header_to(primary))
                    raise replay.not_here(primary)
                call: api.Call[Any] = api.decode_request(path, opened.envelope.body)
                method = name_of(call)
                if may_pass_on and isinstance(call, _TIMED) and not _knows_the_time(service):
                    headers = (*_HEADERS, replay.ELSEWHERE)
                self._check_time(service, opened)
                await self._work.catch_up(service, opened.envelope.position, place)
                before = _standing(service)
                result = await self._work.answer(service, call, self._caller(path, opened), place, receive)
                # Caches rely on these values. For a read they are taken before it, or they could include a revocation
                # that the result doesn't.
                standing = _standing(service) if path in api.WRITING_PATHS else before
                sealed = opened.seal(_answer(standing, result=msgspec.Raw(api.encode(result))))
            except errors.TkdbError as raised:
                error = replay.in_doubt(path, raised) if replay.brought_back(scope) else raised
                outcome = error.code if primary is None else "replayed"
                sealed = opened.seal(_answer(_standing(service), failure=Failure.from_error(error)))
        await respond(send, 200, CONTENT_TYPE, sealed, headers=headers)
        self._log(method, outcome, began, opened)

    def _check_time(self, service: Service, opened: Opened) -> None:
        """Check that the request's time is within the limits.

        Raises:
            OutOfTime: it isn't.
            Unavailable: this machine can't decide that, because its own clock isn't trustworthy.
        """
        try:
            check_time(opened.envelope, self._now_ms())
        except errors.OutOfTime:
            service.check_clock()
            raise

    def _caller(self, path: str, opened: Opened) -> Caller:
        envelope = opened.envelope
        return Caller(
            signer=None if opened.signer is None else self._signers.by_key(opened.signer),
            path=path,
            request_id=envelope.request_id,
            signed_ms=envelope.time_ms,
            signature=envelope.signature,
            body=envelope.body,
        )

    def _log(self, method: str, outcome: str, began: float, opened: Opened) -> None:
        level = logging.DEBUG if outcome == "ok" and method in _QUIET else logging.INFO
        if not logs.LOGGER.isEnabledFor(level):
            return
        fields: dict[str, Any] = {
            "method": method,
            "outcome": outcome,
            "ms": round((time.perf_counter() - began) * 1000, 2),
            "request": opened.envelope.request_id[:4].hex(),
        }
        if opened.signer is not None:
            fields["signer"] = self._signers.by_key(opened.signer).name
        logs.event(level, "request", **fields)


def _open(responder: Responder, path: str, scope: Scope, message: bytes) -> Opened:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    try:
        return responder.open(path, headers, message)
    except errors.ChannelError as error:
        raise ProblemError(problems.HANDSHAKE, str(error)) from None


def _knows_the_time(service: Service) -> bool:
    try:
        service.check_clock()
    except errors.Unavailable:
        return False
    return True


def _standing(service: Service) -> dict[str, Any]:
    """Return the machine's journal, its position, and the age of its data."""
    return {"journal": service.journal, "position": service.position, "age_ms": service.age_ms()}


def _answer(standing: dict[str, Any], **outcome: Any) -> bytes:
    """Return the encoded answer with its ``result`` or its ``failure``."""
    return api.encode(api.Answer(**standing, **outcome))
