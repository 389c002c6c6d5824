"""The example apps, each as a real process that calls a real authority."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.node import Node
from tests.waiting import until
from tkdb.macaroon.token import Macaroon

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "fastapi": ["hypercorn", "--bind", "127.0.0.1:{port}", "docs/examples/fastapi_shop.py:app"],
    "starlette": ["hypercorn", "--bind", "127.0.0.1:{port}", "docs/examples/starlette_shop.py:app"],
    "django": ["hypercorn", "--bind", "127.0.0.1:{port}", "docs/examples/django_shop.py:application"],
    "flask": ["flask", "--app", "docs/examples/flask_shop.py", "run", "--port", "{port}"],
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node") / "tkdb.db") as node:
        with node.client() as client:
            client.create_organization("acme")
        yield node


@contextmanager
def running(example: str, environment: dict[str, str], log: Path) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program, *arguments = (part.format(port=port) for part in EXAMPLES[example])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name(program), *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as caller:
            wait_for_health(caller, process, log)
            yield caller
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # The group, because Hypercorn's worker would outlive its parent.
        process.wait(30)


def wait_for_health(caller: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    def is_healthy() -> bool:
        try:
            return caller.get("/health").status_code == 200
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
            return False

    until(is_healthy, log.read_text)


def bearer(token: Macaroon) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.text}"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_accepts_permitted_requests_and_refuses_others(example: str, node: Node, tmp_path: Path) -> None:
    environment = {"TKDB_URL": node.url, "TKDB_AUTHORITY": node.keys.identity.text()}
    with node.client() as tkdb, running(example, environment, tmp_path / "log") as caller:
        token = tkdb.mint("acme", action="rw", resource={"app": {"shop": "rw", "blog": "r"}}, audience="shop")
        assert caller.get("/apps/shop").headers["www-authenticate"] == 'Bearer realm="shop"'
        assert caller.get("/apps/shop", headers=bearer(token)).json()["organization"] == "acme"
        assert caller.put("/apps/shop?count=9", headers=bearer(token)).json()["stock"] == 9
        unmet = caller.put("/apps/blog?count=9", headers=bearer(token))
        assert (unmet.status_code, unmet.json()["reason"]) == (403, "caveat unmet")
        assert unmet.headers["content-type"] == "application/problem+json"

        narrowed = bearer(tkdb.narrow(token, method="GET", path="/apps/*", expires_in_s=60))
        assert caller.get("/apps/shop", headers=narrowed).status_code == 200
        assert caller.put("/apps/shop?count=1", headers=narrowed).status_code == 403
        elsewhere = bearer(tkdb.narrow(token, method="GET", path="/other/*"))
        assert caller.get("/apps/shop", headers=elsewhere).status_code == 403

        twice = caller.get("/apps/shop", headers=[("Authorization", f"Bearer {token.text}")] * 2)
        assert twice.status_code == 400
        tkdb.create_organization(f"evil-{example}")
        for foreign in (
            tkdb.mint(f"evil-{example}"),
            tkdb.mint(f"evil-{example}", action="rw", resource={"app": {"shop": "rw"}}),
        ):
            for denied in (
                caller.get("/apps/shop", headers=bearer(foreign)),
                caller.put("/apps/shop?count=0", headers=bearer(foreign)),
            ):
                assert (denied.status_code, denied.json()["reason"]) == (403, "foreign organization")
                assert f"evil-{example}" in denied.json()["detail"]
        billing = tkdb.mint("acme", audience="billing")
        assert caller.get("/apps/shop", headers=bearer(billing)).status_code == 403

        tkdb.revoke(token)
        # The app may have the token in its cache, but the revocation reaches it within the bound.
        until(lambda: caller.get("/apps/shop", headers=bearer(token)).status_code != 200)
        revoked = caller.get("/apps/shop", headers=bearer(token))
        assert (revoked.status_code, revoked.json()["reason"]) == (401, "revoked")


def test_an_app_without_an_authority_answers_503(node: Node, tmp_path: Path) -> None:
    with node.client() as tkdb:
        token = tkdb.mint("acme")
    environment = {"TKDB_URL": "http://127.0.0.1:9", "TKDB_AUTHORITY": node.keys.identity.text()}
    with running("flask", environment, tmp_path / "log") as caller:
        gone = caller.get("/apps/shop", headers=bearer(token))
    assert gone.status_code == 503
    assert int(gone.headers["retry-after"]) >= 1
