"""Every code block of docs/web.md and docs/testing.md works without changes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import RequestFactory

import tests.client.web.django_settings  # noqa: F401 -- before Django is used
import tkdb_client
from tests.client.web.fake_server import Response, ask, ask_wsgi, bearer, environ, scope
from tkdb.macaroon.token import Macaroon
from tkdb_client.testing import Authority, faults

DOCS = Path(__file__).parents[3] / "docs"
WEB = (DOCS / "web.md").read_text()
TESTING = (DOCS / "testing.md").read_text()


def blocks(text: str, heading: str, language: str = "python") -> list[str]:
    """Return the code blocks of one section."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def shown(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The namespace for the code of a block. Its clients use the testing authority."""
    monkeypatch.setattr(tkdb_client, "Client", authority.client)
    monkeypatch.setattr(tkdb_client, "AsyncClient", authority.async_client)
    return {"__name__": "shop"}


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, "docs/web.md", "exec"), names)  # noqa: S102 -- the code of the document
    return names


def served(heading: str, names: dict[str, Any], token: Macaroon | None) -> tuple[int, bytes]:
    """Send a request for ``/apps/shop`` to the app of the section."""
    headers = [] if token is None else [bearer(token)]
    if heading == "Flask":
        got: Response = ask_wsgi(names["app"], environ("/apps/shop", *headers))
        return got.status, got.body
    if heading == "Django":
        request = RequestFactory(headers={name.decode(): value.decode() for name, value in headers}).get("/apps/shop")
        response = names["middleware"](lambda request: names["show"](request, app_id="shop"))(request)
        return response.status_code, response.content
    got = ask(names["app"], scope("/apps/shop", *headers))
    return got.status, got.body


@pytest.mark.parametrize("heading", ["FastAPI", "Starlette", "Django", "Flask"])
def test_the_example_of_each_framework_is_a_working_app(
    heading: str, shown: dict[str, Any], authority: Authority
) -> None:
    (code,) = blocks(WEB, heading)
    names = run(code, shown)
    status, body = served(heading, names, authority.mint("acme", resource={"app": {"shop": "r"}}))
    assert status == 200
    assert b'"acme"' in body
    assert served(heading, names, authority.mint("acme", resource={"app": {"blog": "r"}}))[0] == 403
    assert served(heading, names, None)[0] == 401


def test_the_closed_app_example_rejects_requests(shown: dict[str, Any], authority: Authority) -> None:
    names = run(blocks(WEB, "FastAPI")[0], shown)
    (code,) = blocks(WEB, "Protect single routes, or the whole app")
    app = run(code, names)["app"]
    authority.create_organization("evil")
    assert [ask(app, scope(where)).status for where in ("/health", "/nowhere", "/apps/shop")] == [404, 401, 401]
    reader = bearer(authority.mint("acme", resource={"app": {"shop": "r"}}))
    assert [ask(app, scope(where, reader)).status for where in ("/nowhere", "/apps/shop", "/apps/blog")] == [
        404,
        200,
        403,
    ]
    assert ask(app, scope("/nowhere", bearer(authority.mint("evil")))).status == 403


def test_the_verifier_example_reads_the_key_of_the_proxy(
    shown: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks(WEB, "Facts from the request")
    names = run(code, shown)
    assert names["KEY_FILE"] == "/.fly/fly-src.pub"
    key = tmp_path / "fly-src.pub"
    key.write_text("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29\n")
    names["KEY_FILE"] = key
    assert names["attested"]().remembered == 0


def test_the_documented_response_is_the_actual_response(shown: dict[str, Any], authority: Authority) -> None:
    names = run(blocks(WEB, "FastAPI")[0], shown)
    names = run("@app.put('/x')\ndef x(t = require(lambda r: Access(action='w'))): ...", names)
    got = ask(names["app"], scope("/x", bearer(authority.mint("acme", action="r")), method="PUT"))
    ((head, body),) = [block.split("\n\n") for block in blocks(WEB, "Responses to the caller", "http")]
    status, *headers = head.splitlines()
    assert status == f"HTTP/1.1 {got.status}"
    assert dict(line.split(": ", 1) for line in headers) == {
        name: value for name, value in got.headers.items() if name != "content-length"
    }
    assert body.strip() == got.body.decode()


def test_the_documented_tests_pass(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TESTING, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "test_shop.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert re.search(r"^5 passed", done.stdout, re.MULTILINE), done.stdout


def test_every_fault_is_documented() -> None:
    named = set(re.findall(r"^\| `(\w+)\(", TESTING, flags=re.MULTILINE))
    public = {name for name in tkdb_client.testing.__all__ if hasattr(getattr(faults, name, None), "meet")}
    assert named == public - {"Fault"}
