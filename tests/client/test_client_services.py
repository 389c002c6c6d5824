"""Every code block of docs/services.md works without changes, one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

import tkdb_client
from tkdb_client import Client
from tkdb_client.testing import Authority

DOCUMENT = (Path(__file__).parents[2] / "docs" / "services.md").read_text()


def with_raw_path(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI app that gets the path as received, as from every server, which httpx leaves out."""

    def served(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        return app(environ | {"RAW_URI": environ["PATH_INFO"]}, start)

    return served


def test_the_documented_services_call_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Authority() as authority:
        names: dict[str, Any] = {"__name__": "shop"}

        class InProcess(httpx.Client):
            """A client whose requests go to the app of the page."""

            def __init__(self, **settings: Any) -> None:
                super().__init__(transport=httpx.WSGITransport(with_raw_path(names["app"].wsgi_app)), **settings)

        def make(**settings: Any) -> Client:
            return authority.client(signer=authority.signer, **settings)

        monkeypatch.setattr(tkdb_client, "Client", make)
        monkeypatch.setattr(httpx, "Client", InProcess)
        codes = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
        for code in codes:
            exec(compile(code, "docs/services.md", "exec"), names)  # noqa: S102  the code of the document
        assert len(codes) == 6
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["{'caller': 'service:web', 'number': '5'}", "{'caller': 'kim', 'number': '5'}"]


def test_every_block_of_the_page_is_run() -> None:
    assert set(re.findall(r"^```(\w*)$", DOCUMENT, re.MULTILINE)) == {"python", ""}
