"""The measured processes: a node (``tkdb serve``), or a bare Hypercorn echo as its peer; each on one core.

``python -m bench.node`` is the echo: Starlette, Hypercorn and uvloop, with as little as possible around them. It
answers each POST at ``TKDB_BIND`` with the body of the request.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

READY_WITHIN_S = 60
CORES = sorted(os.sched_getaffinity(0))
NODE_CORE, LOAD_CORE = CORES[0], CORES[-1]


class Process:
    """A process ``python -m module arguments`` that serves HTTP at ``port``, on ``NODE_CORE``,
    during the ``with`` block.

    ``ready_s`` is the time from its start until it answered ``/readyz`` with 200.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.port = _free_port()
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TKDB_")}
        with on_core(NODE_CORE):
            began = time.perf_counter()
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**ours, **(environment or {}), "TKDB_BIND": f"127.0.0.1:{self.port}"},
            )
        try:
            self._wait(began + READY_WITHIN_S)
        except BaseException:
            self._end()
            raise
        self.ready_s = time.perf_counter() - began

    @property
    def resident_mb(self) -> float:
        """The memory of the process (RSS), in units of 1,000,000 bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1_024 / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _wait(self, until: float) -> None:
        while not is_ready(self.port):
            if self._process.poll() is not None or time.perf_counter() > until:
                raise RuntimeError(f"{self._process.args!r} is not ready")
            time.sleep(0.002)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run the ``with`` block, and the processes that it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def is_ready(port: int) -> bool:
    """Return True if ``/readyz`` answers with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_WITHIN_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def echo() -> None:
    """Run the echo at ``TKDB_BIND``."""
    import uvloop
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        return Response(await request.body())

    app = Starlette(routes=[Route("/", answer, methods=["POST"]), Route("/readyz", answer)])
    config = Config()
    config.bind = [os.environ["TKDB_BIND"]]
    config.errorlog = None
    config.keep_alive_max_requests = 1_000_000
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(hypercorn_serve(app, config))  # type: ignore[arg-type]  # Starlette is an ASGI app


if __name__ == "__main__":
    echo()
