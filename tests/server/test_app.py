"""Plain HTTP: health, and a problem for each request that isn't a call of the authority."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tkdb import api, errors
from tkdb.server import problems


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1/verify/", 404, "not-found"),
        ("GET", "/livez/", 404, "not-found"),
        ("GET", "/v1/verify", 405, "method-not-allowed"),
        ("POST", "/readyz", 405, "method-not-allowed"),
        ("POST", "/dev/mint", 404, "not-found"),
        ("GET", "/openapi.json", 404, "not-found"),
    ],
)
def test_an_unknown_path_or_method_is_a_problem(
    start: Any, run: Any, method: str, path: str, status: int, kind: str
) -> None:
    async def test() -> None:
        async with start() as server:
            response = await server.http.request(method, path)
            assert response.status_code == status
            assert response.headers["content-type"] == "application/problem+json"
            body = response.json()
            assert body["type"] == f"urn:tkdb:problem:{kind}"
            assert body["status"] == status
            assert body["title"]
            assert "detail" in body

    run(test())


def test_a_healthy_server_is_live_and_ready(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            assert (await server.http.get("/livez")).status_code == 200
            assert (await server.http.get("/readyz")).status_code == 200
            assert (await server.http.head("/readyz")).status_code == 200
            assert (await server.http.get("/readyz")).headers["cache-control"] == "no-store"

    run(test())


@pytest.mark.parametrize(
    "error",
    [
        errors.StaleAuthority("the head was last read 6.1 s ago; 5 s is the bound"),
        errors.Unavailable("the database is being restored", retry_after_ms=2_500),
    ],
)
def test_readyz_gives_the_reason_why_the_server_is_not_ready(start: Any, run: Any, error: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.ready_error = error
            response = await server.http.get("/readyz")
            assert response.status_code == 503
            assert response.json()["type"] == "urn:tkdb:problem:not-ready"
            assert error.message in response.json()["detail"]
            assert response.headers.get("retry-after") == ("3" if error.retry_after_ms else None)
            assert (await server.http.get("/livez")).status_code == 200

    run(test())


@pytest.mark.parametrize(
    "error",
    [errors.NoPrimary("no machine is primary"), errors.StaleAuthority("the head was last read 6.1 s ago")],
)
def test_a_replication_error_fails_only_livez_replication(start: Any, run: Any, error: Any) -> None:
    async def test() -> None:
        async with start(drain_ms=20_000) as server:
            assert (await server.http.get("/livez/replication")).status_code == 200
            server.service.replication_error = error
            response = await server.http.get("/livez/replication")
            assert (response.status_code, response.json()["type"]) == (503, "urn:tkdb:problem:not-replicating")
            assert error.message in response.json()["detail"]
            assert (await server.http.get("/readyz")).status_code == 200
            server.stop.ask()
            while (await server.http.get("/readyz")).status_code == 200:  # noqa: ASYNC110  no event shows when the server drains
                await asyncio.sleep(0.002)
            assert (await server.http.get("/livez/replication")).status_code == 200  # a deploy raises no alarm

    run(test())


def test_an_unexpected_error_outside_a_call_is_a_problem_without_details(start: Any, run: Any, log: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.ready_error = ZeroDivisionError("planted-secret")
            response = await server.http.get("/readyz")
            assert response.status_code == 500
            assert response.json()["type"] == "urn:tkdb:problem:internal"
            assert "planted" not in response.text

    run(test())
    assert "planted" not in log.getvalue()


def test_while_draining_requests_are_answered_and_their_connections_closed(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(drain_ms=20_000) as server:
            poll = asyncio.create_task(server.ask(api.VERIFY, api.Revocations([bytes(16)], after=0, wait_ms=20_000)))
            while not server.service.calls:  # noqa: ASYNC110  a poll is simpler than an event
                await asyncio.sleep(0.002)
            assert "connection" not in (await server.http.get("/readyz")).headers
            server.stop.ask()
            assert (await poll).position == 7
            ready = await server.http.get("/readyz")
            assert (ready.status_code, ready.json()["type"]) == (503, "urn:tkdb:problem:draining")
            answered = await server.post(api.VERIFY, api.Verify(["tkdb_x"]))
            assert (answered.status_code, answered.headers["connection"]) == (200, "close")
            missing = await server.http.get("/nothing")
            assert (missing.status_code, missing.headers["connection"]) == (404, "close")

    run(test())


def test_each_kind_of_problem_is_named_once() -> None:
    kinds = [problem.kind for problem in problems.ALL]
    assert len(set(kinds)) == len(kinds)
    assert not {"denied", "forbidden", "unauthorized"} & set(kinds)
    assert {problem.status for problem in problems.ALL} & {401} == set()


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/livez", 405)])
def test_the_response_to_an_unread_body_announces_that_the_connection_closes(
    start: Any, run: Any, path: str, status: int
) -> None:
    async def test() -> None:
        async with start() as server:
            for _ in range(20):
                response = await server.http.post(path, content=b"x" * 20_000)
                assert (response.status_code, response.headers["connection"]) == (status, "close")
            empty = await server.http.post(path)
            assert "connection" not in empty.headers

    run(test())
