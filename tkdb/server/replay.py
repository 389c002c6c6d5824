"""Passing a request on: ``fly-replay`` asks the proxy to send the request, unchanged, to another machine.

The proxy acts on the header whatever the status, and the caller never sees that response. If no proxy acts on it, the
caller gets the response. It is a message 2, so the caller knows that the authority itself sent it. The request that
reaches the other machine has the header ``fly-replay-src``. If that machine can't be reached in time, the proxy returns
the request here, with ``fly-replay-failed``. Neither of the two is passed on again. (Anyone can send these headers, but
the only effect is that their own request is refused here.)

Source: https://fly.io/docs/networking/dynamic-request-routing/

>>> header_to("m-5e6f")
(b'fly-replay', b'instance=m-5e6f;timeout=1s;fallback=force_self')
>>> passed_on({"headers": [(b"fly-replay-src", b"instance=m-1a2b;region=syd")]})
True
"""

from __future__ import annotations

from typing import Final

from tkdb import api, errors
from tkdb.server.asgi import Header, Scope, header

REACH_S: Final = 1
"""The time for which the proxy tries to reach the other machine: a caller's timeout for an attempt is about 1.5 s."""

ELSEWHERE: Final[Header] = (b"fly-replay", f"elsewhere=true;timeout={REACH_S}s;fallback=force_self".encode("ascii"))
"""The header that asks the proxy to replay a request on any other machine, or to return it here if there is none.
Without a proxy, the caller uses the response with this header as it is."""

_HINT: Final = "ask {machine}; a proxy that supports fly-replay does that by itself"


def header_to(machine: str) -> Header:
    """Return the header that asks the proxy to replay a request on ``machine``, or to return it if that fails."""
    return b"fly-replay", f"instance={machine};timeout={REACH_S}s;fallback=force_self".encode("ascii")


def passed_on(scope: Scope) -> bool:
    """Return True if a request has already been replayed."""
    return header(scope, b"fly-replay-src") is not None or brought_back(scope)


def brought_back(scope: Scope) -> bool:
    """Return True if a request was replayed, and its target couldn't be reached."""
    return header(scope, b"fly-replay-failed") is not None


def not_here(machine: str) -> errors.NoPrimary:
    """Return the error for a caller whose request no proxy passed on."""
    return errors.NoPrimary(f"this machine isn't primary: {machine} is", hint=_HINT.format(machine=machine))


def in_doubt(path: str, error: errors.TkdbError) -> errors.TkdbError:
    """Return the error for a request that the proxy returned here.

    The machine that couldn't be reached may still have received the request. So for a write, the refusal "this machine
    isn't primary" doesn't mean that nothing was done: the outcome is unknown.
    """
    if path in api.WRITING_PATHS and isinstance(error, errors.NoPrimary):
        return errors.OutcomeUnknown(
            "the request was passed on to the primary, which couldn't be reached in time",
            hint="repeat the request with the same request id",
            retry_after_ms=error.retry_after_ms,
        )
    return error
