"""The start of a server, and its stop without a cut request: a real process gets a signal under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tkdb import api, errors
from tkdb.channel.client import Initiator
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret
from tkdb.server.run import Stop, serve
from tkdb.settings import Address

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A server process, its address, and a caller."""

    def __init__(self, drain_ms: int) -> None:
        secret = AuthoritySecret.generate(os.urandom)
        environment = {**os.environ, "KEY": secret.text(), "DRAIN_MS": str(drain_ms), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.server_process"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.base = f"http://{self.process.stdout.readline().strip()}"
        identity = AuthorityIdentity("tkdb.example", (secret.public,))
        self.caller = Initiator(identity, signer=None, random=os.urandom)

    async def ask(self, http: httpx.AsyncClient, call: api.Call[Any]) -> Any:
        now_ms = time.time_ns() // 1_000_000
        sealed = self.caller.seal(api.VERIFY, api.encode(call), request_id=os.urandom(16), now_ms=now_ms)
        response = await http.post(self.base + api.VERIFY, content=sealed.message, headers=sealed.headers)
        assert response.status_code == 200
        return api.decode_result(call, api.decode_answer(sealed.open(response.content)))


async def keep_asking(server: ServerProcess, http: httpx.AsyncClient, unrouted: asyncio.Event) -> int:
    """Send calls over kept-alive connections until ``unrouted`` is set. Return the number of answers."""
    answered = 0
    while not unrouted.is_set():
        await server.ask(http, api.Verify(["tkdb_x"]))
        answered += 1
    return answered


async def stop_under_load(server: ServerProcess, number: int) -> None:
    """Send a signal while four callers ask, one poll waits and one connection is idle. Raise if a request is cut."""
    unrouted = asyncio.Event()
    limits = httpx.Limits(max_keepalive_connections=20)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as http,
        httpx.AsyncClient(trust_env=False, timeout=60) as idle,
        asyncio.TaskGroup() as tasks,
    ):
        await server.ask(idle, api.Status())
        poll = tasks.create_task(server.ask(http, api.Revocations([bytes(16)], after=0, wait_ms=20_000)))
        callers = [tasks.create_task(keep_asking(server, http, unrouted)) for _ in range(4)]
        await asyncio.sleep(0.1)
        server.process.send_signal(number)
        assert (await poll).position == 7
        ready = await http.get(server.base + "/readyz")
        assert (ready.status_code, ready.headers["connection"]) == (503, "close")
        await server.ask(idle, api.Status())
        unrouted.set()
        assert min(await asyncio.gather(*callers)) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_request_is_cut_when_a_server_stops(number: int) -> None:
    server = ServerProcess(drain_ms=1_000)
    asyncio.run(asyncio.wait_for(stop_under_load(server, number), 30))
    _, logged = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    assert [json.loads(line)["event"] for line in logged.splitlines()] == ["draining", "stopped"]


def test_without_draining_requests_are_cut() -> None:
    """The negative control of the previous test."""
    server = ServerProcess(drain_ms=0)
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(asyncio.wait_for(stop_under_load(server, signal.SIGTERM), 30))
    assert caught.group_contains(httpx.TransportError)
    server.process.communicate(timeout=60)


def test_a_second_signal_stops_the_server_at_once() -> None:
    server = ServerProcess(drain_ms=300_000)
    server.process.send_signal(signal.SIGINT)
    assert server.process.stderr is not None
    assert "draining" in server.process.stderr.readline()
    server.process.send_signal(signal.SIGINT)
    server.process.communicate(timeout=60)
    assert server.process.returncode == 0


def test_the_server_imports_no_unneeded_library() -> None:
    code = "import sys, tkdb.server.run; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"httpx", "pydantic", "rich", "typer", "requests", "jinja2"} & set(done.stdout.split())


def test_a_port_in_use_is_a_configuration_error(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            with pytest.raises(errors.ConfigurationError, match="another process listens there"):
                async with start(bind=server.address):
                    pass

    run(test())


def test_an_address_of_another_machine_is_a_configuration_error(start: Any, run: Any) -> None:
    async def test() -> None:
        with pytest.raises(errors.ConfigurationError, match="no such address"):
            async with start(bind=Address.parse("192.0.2.1:0")):
                pass

    run(test())


def test_the_server_reports_starting_while_the_database_opens(settings: Any, run: Any) -> None:
    async def test() -> None:
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def open_forever(_: Any) -> Any:
            begun.set_result(None)
            await asyncio.Event().wait()

        bind, stop = await _free_address(), Stop()
        serving = asyncio.create_task(serve(replace(settings, bind=bind), open_service=open_forever, stop=stop))
        await begun
        async with httpx.AsyncClient(base_url=f"http://{bind}", trust_env=False) as http:
            assert (await http.get("/livez")).status_code == 200
            for response in (await http.get("/readyz"), await http.post(api.VERIFY)):
                assert response.status_code == 503
                assert response.json()["type"] == "urn:tkdb:problem:starting"
        stop.ask()
        await serving

    run(test())


def test_a_database_that_cannot_be_opened_ends_the_server_with_its_error(settings: Any, run: Any) -> None:
    async def test() -> None:
        async def fail_to_open(_: Any) -> Any:
            raise errors.WrongSealKey("no secret given unseals the first record")

        with pytest.raises(errors.WrongSealKey):
            await serve(settings, open_service=fail_to_open, stop=Stop())

    run(test())


async def _free_address() -> Address:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return Address.parse(f"127.0.0.1:{port}")
