"""The cache example in docs/client.md works without changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.client.cache.test_cache_client import RealmServer
from tests.client.fake_authority import FakeAuthority
from tkdb.macaroon.caveats import Exp

DOCUMENT = Path(__file__).parents[3] / "docs" / "client.md"


def test_the_cache_example_sends_one_request(
    authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = RealmServer(authority)
    monkeypatch.setenv("TKDB_URL", authority.url)
    monkeypatch.setenv("TKDB_AUTHORITY", authority.identity.text())
    shown = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    [code] = [block for block in shown if "cache_" in block]
    given = {"token": server.realm.mint(Exp(4_000_000_000)).text}
    exec(code, given)  # noqa: S102  the code of the document
    given["tkdb"].close()  # type: ignore[attr-defined]
    assert server.count() == 1
    assert "hits=999" in capsys.readouterr().out
