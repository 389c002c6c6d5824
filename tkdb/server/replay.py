"""Passing a request on: ``fly-replay`` asks the proxy to send it, as it is, to another machine.

The proxy acts on the header whatever the status, and the caller never sees that answer. Where no proxy does, the
caller gets it: it is a message 2, so that "not here" is the authority's own word, too. The machine that is sent the
request finds ``fly-replay-src`` on it. Where that machine couldn't be reached in time, the request comes back, with
``fly-replay-failed``. Neither is passed on again. (Anyone can send these headers, and so have a request of their own
refused here.) Source: https://fly.io/docs/networking/dynamic-request-routing/

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
"""How long the proxy tries to reach the other machine: callers give an attempt about 1.5 s."""

ELSEWHERE: Final[Header] = (b"fly-replay", f"elsewhere=true;timeout={REACH_S}s;fallback=force_self".encode("ascii"))
"""Has a request replayed to any other machine, or brought back where there is none. Without a proxy, the answer that it
is on counts as it is."""

_HINT: Final = "ask {machine}; a proxy that knows fly-replay does that by itself"


def header_to(machine: str) -> Header:
    """Return the header that has a request replayed to ``machine``, or brought back where that can't be reached."""
    return b"fly-replay", f"instance={machine};timeout={REACH_S}s;fallback=force_self".encode("ascii")


def passed_on(scope: Scope) -> bool:
    """Return whether a request was replayed already."""
    return header(scope, b"fly-replay-src") is not None or brought_back(scope)


def brought_back(scope: Scope) -> bool:
    """Return whether a request was replayed, and its target couldn't be reached."""
    return header(scope, b"fly-replay-failed") is not None


def not_here(machine: str) -> errors.NoPrimary:
    """Return what a caller is told that no proxy passed on."""
    return errors.NoPrimary(f"this machine isn't primary: {machine} is", hint=_HINT.format(machine=machine))


def in_doubt(path: str, error: errors.TkdbError) -> errors.TkdbError:
    """Return what is known of a request that was brought back: the machine that couldn't be reached may have got it,
    so "this machine takes no writes" isn't "nothing was done"."""
    if path in api.WRITING_PATHS and isinstance(error, errors.NoPrimary):
        return errors.OutcomeUnknown(
            "it was passed on to the primary, which couldn't be reached in time",
            hint="repeat it with the same request id",
            retry_after_ms=error.retry_after_ms,
        )
    return error
