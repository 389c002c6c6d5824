"""The server process: it serves until it is asked to stop, and stops without cutting off a request.

After SIGTERM or SIGINT, the server drains for ``drain_ms``: ``/readyz`` turns to 503, long polls end with the results
they have, responses close their connections, and new requests are still answered. This is longer than a proxy needs to
notice, and longer than it pools idle connections. Then the server stops, after the requests in flight have had their
time. A second signal stops it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Network
from typing import Any, Final, cast

import uvloop
from hypercorn.typing import ASGIFramework
from starlette.routing import BaseRoute

from tkdb import errors, logs
from tkdb.attestation import PROXIES, Verifier
from tkdb.bootstrap import open_authority, system_clock
from tkdb.channel.server import Responder
from tkdb.ports import Service
from tkdb.server.app import build
from tkdb.server.attested import verifier_of
from tkdb.server.connections import Connections
from tkdb.server.lifecycle import Lifecycle
from tkdb.server.limits import Limits
from tkdb.server.listen import BACKLOG, listen
from tkdb.server.work import Work
from tkdb.settings import Address, Settings

Open = Callable[[Settings], Coroutine[Any, Any, Service]]
Ready = Callable[[Address], None]
ExtraRoutes = Callable[[Lifecycle, Work, Settings], Sequence[BaseRoute]]

OTHER_FILES: Final = 512
"""The files that the process needs for everything but connections: the database, Litestream, the object store."""


class Stop:
    """The request to stop: the first one drains first, the second one stops at once."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._urged = asyncio.Event()

    def ask(self) -> None:
        """Ask to stop after draining, or at once if this was already called."""
        (self._urged if self._asked.is_set() else self._asked).set()

    def end(self) -> None:
        """Ask to stop at once."""
        self._urged.set()
        self._asked.set()

    async def wait(self, lifecycle: Lifecycle, drain_ms: int) -> None:
        """Wait until it is time to stop, and drain first unless the stop is at once."""
        await self._asked.wait()
        if self._urged.is_set():
            return
        logs.event(logging.INFO, "draining", drain_ms=drain_ms)
        lifecycle.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_ms / 1000):
                await self._urged.wait()


async def serve(
    settings: Settings,
    *,
    open_service: Open = open_authority,
    ready: Ready = lambda address: None,
    extra_routes: ExtraRoutes = lambda lifecycle, work, settings: (),
    stop: Stop | None = None,
    limits: Limits | None = None,
    proxies: IPv4Network = PROXIES,
) -> None:
    """Serve until stopped.

    Args:
        settings: the configuration.
        open_service: opens the authority. Meanwhile the server is up, and answers that it is starting.
        ready: called with the actual address as soon as requests are answered.
        extra_routes: returns routes to serve in addition to the service's own.
        stop: the way to stop it. Default: SIGTERM and SIGINT.
        limits: limits other than the default ones.
        proxies: the addresses from which attested requests come, if they aren't Fly's.

    Raises:
        ConfigurationError: it can't listen at ``settings.bind``, the key that attests callers can't be read, or the
            process may not have as many open files as there may be connections.
        TkdbError: any error of ``open_service`` or ``extra_routes``, or the error because of which the service can't
            continue.
    """
    lifecycle = Lifecycle()
    work = Work(limits or Limits(active_max=settings.max_concurrency))
    _raise_file_limit(work.limits)
    app = _app(lifecycle, work, settings, extra_routes, verifier_of(settings, proxies))
    listener, address = listen(settings.bind)
    asyncio.get_running_loop().set_exception_handler(_log_unhandled)
    with _signalled(stop) as stopping:
        trigger = partial(stopping.wait, lifecycle, settings.drain_ms)
        server = asyncio.create_task(Connections(app, work.limits).serve(listener, trigger))
        service: Service | None = None
        try:
            service = await _opened(open_service(settings), server)
            if service is not None:
                keys = settings.signers.active_keys()
                lifecycle.start(service, Responder(settings.name, settings.authority_keys, keys, random=os.urandom))
                ready(address)
                await _until_ended(server, service)
        finally:
            stopping.end()
            await server
            await work.settle()
            if service is not None:
                await service.close()
    logs.event(logging.INFO, "stopped")


def run(settings: Settings, **options: Any) -> None:
    """Run ``serve`` on a new event loop (uvloop); ``options`` are its keyword arguments."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, **options))


def _app(
    lifecycle: Lifecycle, work: Work, settings: Settings, extra_routes: ExtraRoutes, verifier: Verifier | None
) -> ASGIFramework:
    extra = extra_routes(lifecycle, work, settings)
    now_ms = system_clock().wall_ms
    # The cast is safe: both follow ASGI, but Hypercorn has a type for each event, and Starlette takes any mapping.
    app = build(lifecycle, work, settings.signers, now_ms=now_ms, extra_routes=extra, verifier=verifier)
    return cast("ASGIFramework", app)


async def _opened(opening: Coroutine[Any, Any, Service], server: asyncio.Task[None]) -> Service | None:
    """Return the service once it is open, or None if the server was stopped first."""
    task = asyncio.create_task(opening)
    await asyncio.wait({task, server}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def _until_ended(server: asyncio.Task[None], service: Service) -> None:
    """Wait until the server has stopped.

    Raises:
        TkdbError: the service can't continue. The supervisor of this process has to start it again.
    """
    ended = asyncio.create_task(service.ended())
    await asyncio.wait({server, ended}, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        ended.result()
    ended.cancel()


@contextmanager
def _signalled(stop: Stop | None) -> Iterator[Stop]:
    """Yield the given ``Stop``, or a new one that SIGTERM and SIGINT trigger during this context."""
    if stop is not None:
        yield stop
        return
    stop = Stop()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.ask)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException):
        logs.failure("unhandled", error)
    else:
        logs.event(logging.ERROR, "unhandled")


def _raise_file_limit(limits: Limits) -> None:
    """Allow as many open files as there may be connections, and those that the process needs for other things.

    Otherwise, callers who hold connections would take the files that the database and the object store need.

    Raises:
        ConfigurationError: the system doesn't permit so many.
    """
    # A burst of new connections takes files before the old ones are closed.
    needed = limits.connections_max + BACKLOG + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError):
        raise errors.ConfigurationError(
            f"this process may have at most {hard} open files, and needs {needed} for its connections",
            hint="raise the hard limit of open files (`ulimit -Hn`, or LimitNOFILE= of systemd)",
        ) from None
