"""The sources of settings, the settings that are refused, and the errors. Also how threads and tasks share a client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake_authority import Brain, FakeAuthority, report
from tkdb import errors
from tkdb.channel.keys import SignerSecret
from tkdb.net.url import Url
from tkdb_client import AsyncClient, Client
from tkdb_client.settings import NO_SIGNER, Settings

BRAIN = Brain()
URL = "http://tkdb.flycast"
AUTHORITY = BRAIN.identity.text()
SIGNER = BRAIN.signer.text()


def read(**environ: str) -> Settings:
    return Settings.read(None, None, None, environ)


def test_all_settings_may_come_from_the_environment() -> None:
    settings = read(TKDB_URL=URL, TKDB_AUTHORITY=AUTHORITY + "\n", TKDB_SIGNER=SIGNER + "\n")
    assert list(map(str, settings.urls)) == [URL]
    assert settings.authority == BRAIN.identity
    assert settings.signer is not None
    assert settings.signer.public == BRAIN.signer.public


def test_arguments_win_over_the_environment() -> None:
    environ = {"TKDB_URL": "http://elsewhere", "TKDB_AUTHORITY": "nonsense", "TKDB_SIGNER": "nonsense"}
    settings = Settings.read(URL, BRAIN.identity, BRAIN.signer, environ)
    assert (settings.urls, settings.authority, settings.signer) == ((Url.parse(URL),), BRAIN.identity, BRAIN.signer)


def test_a_signer_may_be_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "signer"
    path.write_text(SIGNER + "\n")
    settings = read(TKDB_URL=URL, TKDB_AUTHORITY=AUTHORITY, TKDB_SIGNER_FILE=str(path))
    assert settings.signer is not None
    assert settings.signer.public == BRAIN.signer.public


def test_the_variable_wins_over_the_file(tmp_path: Path) -> None:
    other = SignerSecret.generate(os.urandom)
    settings = read(
        TKDB_URL=URL, TKDB_AUTHORITY=AUTHORITY, TKDB_SIGNER=other.text(), TKDB_SIGNER_FILE=str(tmp_path / "missing")
    )
    assert settings.signer is not None
    assert settings.signer.public == other.public


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_the_error_names_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "signer"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.ConfigurationError, match=str(path)):
        read(TKDB_URL=URL, TKDB_AUTHORITY=AUTHORITY, TKDB_SIGNER_FILE=str(path))


@pytest.mark.parametrize("missing", ["TKDB_URL", "TKDB_AUTHORITY"])
def test_the_error_names_a_missing_setting(missing: str) -> None:
    environ = {"TKDB_URL": URL, "TKDB_AUTHORITY": AUTHORITY}
    del environ[missing]
    with pytest.raises(errors.ConfigurationError, match=missing):
        read(**environ)


def test_an_invalid_signer_is_refused_and_not_shown() -> None:
    damaged = SIGNER[:-3]
    with pytest.raises(errors.ConfigurationError) as raised:
        Settings.read(URL, AUTHORITY, damaged, {})
    assert damaged[12:30] not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "host", "port", "prefix", "header"),
    [
        ("http://tkdb.flycast", "tkdb.flycast", 80, "", "tkdb.flycast"),
        ("http://tkdb.flycast:80/", "tkdb.flycast", 80, "", "tkdb.flycast"),
        ("https://tkdb.example/a/b/", "tkdb.example", 443, "/a/b", "tkdb.example"),
        ("http://[fdaa:0:1::3]", "fdaa:0:1::3", 80, "", "[fdaa:0:1::3]"),
        ("http://[::1]:8080", "::1", 8080, "", "[::1]:8080"),
        ("HTTP://Tkdb.Flycast:8080", "tkdb.flycast", 8080, "", "tkdb.flycast:8080"),
    ],
)
def test_a_url_is_parsed(text: str, host: str, port: int, prefix: str, header: str) -> None:
    url = Url.parse(text)
    assert (url.host, url.port, url.prefix, url.host_header) == (host, port, prefix, header)


def test_a_url_may_name_a_region_of_a_shared_address() -> None:
    urls = read(TKDB_URL=f"{URL}?region=syd,{URL}/?region=ams,{URL}", TKDB_AUTHORITY=AUTHORITY).urls
    assert [url.region for url in urls] == ["syd", "ams", ""]
    assert [str(url) for url in urls] == [f"{URL}?region=syd", f"{URL}?region=ams", URL]


@pytest.mark.parametrize(
    "text",
    [
        "tkdb.flycast",
        "ftp://tkdb.flycast",
        "http://",
        "http://[::1",
        "http://tkdb:99999",
        "http://tkdb:port",
        "http://kim:secret@tkdb",
        "http://tkdb/?a=b",
        "http://tkdb/?",
        "http://tkdb/?region=",
        "http://tkdb/?region=syd&region=ams",
        "http://tkdb/?region=syd,ams",
        "http://tkdb/?region=s%20d",
        "http://tkdb/#a",
        "http://tkdb/a b",
        "http://tk db",
        "http://tkdb/\r\nx: y",
        "http://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher",
        "http://tkdb\x00",
        "http://tk\ndb",
        "http://tkdb:0",
        "http://a..b",
        "http://" + "a" * 64,
        "http://[fe80::1%25eth0]",
        "http://[v1.a]",
        "unix:/tmp/tkdb",
    ],
)
def test_an_invalid_url_is_refused(text: str) -> None:
    with pytest.raises(errors.ConfigurationError) as raised:
        Url.parse(text)
    assert "secret" not in str(raised.value)


@given(st.one_of(st.text(), st.text().map("http://".__add__), st.text().map("http://a?region=".__add__)))
def test_any_accepted_url_is_printable_ascii_and_parses_to_itself(text: str) -> None:
    try:
        url = Url.parse(text)
    except errors.ConfigurationError:
        return
    assert Url.parse(str(url)) == url
    assert (url.host_header + url.prefix + url.region).isascii()
    assert (url.host_header + url.prefix + url.region).isprintable()


def test_clients_are_context_managers(authority: FakeAuthority) -> None:
    async def ask() -> object:
        async with AsyncClient(authority.url, authority.identity) as client:
            return await client.status()

    with Client(authority.url, authority.identity) as client:
        assert client.status() == report()
    assert asyncio.run(ask()) == report()


def test_threads_share_a_client(authority: FakeAuthority) -> None:
    seen: list[object] = []
    with Client(authority.url, authority.identity) as client:
        threads = [threading.Thread(target=lambda: seen.extend([client.status() for _ in range(10)])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert seen == [report()] * 80
    ids = {request.opened.envelope.request_id for request in authority.requests if request.opened}
    assert len(ids) == 80


def test_tasks_share_a_client(authority: FakeAuthority) -> None:
    async def ask() -> list[object]:
        async with AsyncClient(authority.url, authority.identity) as client:
            return list(await asyncio.gather(*[client.status() for _ in range(40)]))

    assert asyncio.run(ask()) == [report()] * 40


def test_a_cancelled_call_leaves_the_client_usable(authority: FakeAuthority) -> None:
    async def hang_once(server: FakeAuthority, request: object, writer: object) -> None:
        arrived.set()
        await asyncio.sleep(3600)

    arrived = threading.Event()
    authority.script.append(hang_once)

    async def ask() -> object:
        async with AsyncClient(authority.url, authority.identity) as client:
            task = asyncio.create_task(client.status())
            await asyncio.to_thread(arrived.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.status()

    assert asyncio.run(ask()) == report()


def test_importing_the_client_loads_no_server() -> None:
    heavy = "{'starlette', 'hypercorn', 'httpx', 'rich', 'typer', 'sqlite3'} & set(__import__('sys').modules)"
    script = f"import tkdb_client; print({heavy})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_no_signer_overrides_the_environment() -> None:
    environ = {"TKDB_URL": URL, "TKDB_AUTHORITY": AUTHORITY, "TKDB_SIGNER": SIGNER}
    assert Settings.read(None, None, None, environ).signer is not None
    for none in (NO_SIGNER, ""):
        assert Settings.read(None, None, none, environ).signer is None


@pytest.mark.parametrize("empty", ["", " ", "\n"])
@pytest.mark.parametrize("variable", ["TKDB_URL", "TKDB_AUTHORITY", "TKDB_SIGNER", "TKDB_SIGNER_FILE"])
def test_a_variable_that_is_set_but_empty_is_refused(variable: str, empty: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"{variable} is set, but it is empty"):
        read(**{"TKDB_URL": URL, "TKDB_AUTHORITY": AUTHORITY, variable: empty})


def test_an_empty_argument_never_falls_back_on_the_environment() -> None:
    environ = {"TKDB_URL": URL, "TKDB_AUTHORITY": AUTHORITY, "TKDB_SIGNER": SIGNER}
    assert list(map(str, Settings.read(None, None, None, environ).urls)) == [URL]
    empty: list[tuple[Any, Any, Any]] = [([], None, None), ("", None, None), (None, "", None), (None, None, " ")]
    for url, authority, signer in empty:
        with pytest.raises(errors.ConfigurationError):
            Settings.read(url, authority, signer, environ)


def test_an_empty_file_of_a_signer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signer"
    path.write_text("\n")
    with pytest.raises(errors.ConfigurationError, match="is empty"):
        read(TKDB_URL=URL, TKDB_AUTHORITY=AUTHORITY, TKDB_SIGNER_FILE=str(path))
