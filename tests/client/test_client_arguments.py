"""Every argument of the Python API that can't be meant raises one of our errors, which names it, before a request."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tkdb import api, errors
from tkdb.attestation import parse_public_key
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.restrictions import NAMES
from tkdb.macaroon.token import Macaroon
from tkdb_client import AsyncClient, Client, Policy, arguments
from tkdb_client.testing import Authority, Clock, Down

KID = bytes(16)
EMPTY: tuple[Any, ...] = ("", b"", [], {}, ())
NOT_TEXT: tuple[Any, ...] = (5, b"acme", ["acme"], object(), "")
NOT_COUNTS: tuple[Any, ...] = ("3", -1, 1.5, True, [], 2**53)
NOT_LIFETIMES: tuple[Any, ...] = ("60", 0, -1, float("nan"), float("inf"), timedelta(0), [], True)
NOT_MS: tuple[Any, ...] = ("3", -1, 1.5, True, [], timedelta(seconds=-1))
NOT_TOKENS: tuple[Any, ...] = (None, b"tkdb_AgEM", 5, [], object())
NOT_IDS: tuple[Any, ...] = (b"", b"short", "xyz", "", 5, [])

RESTRICTIONS: dict[str, tuple[Any, ...]] = {
    "action": (*NOT_TEXT, "read", "wr"),
    "resource": (
        *EMPTY,
        5,
        "app",
        {"app": {}},
        {"app": "shop"},
        {"app": {"shop": 5}},
        {5: {"shop": "r"}},
        {"a b": {"x": "r"}},
    ),
    "prefix": (*EMPTY, 5, {"app": {}}, {"app": None}, {"app": {5: "r"}}, {"app": {"": "r"}}),
    "otherwise": (5, [], "read"),
    "audience": (*NOT_TEXT, "a\n"),
    "ip": (*EMPTY, 5, "10.0.0.1", ["10.0.0.0/8", 5], "10.0.0.0/8\n"),
    "method": (*NOT_TEXT, "get"),
    "path": (*NOT_TEXT, "v1", "/a/../b"),
}

# For each method: valid arguments, then wrong values for each argument.
Table = dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]]]]
METHODS: Table = {
    "verify": ({}, {"token": NOT_TOKENS}),
    "known": ({}, {"token": NOT_TOKENS}),
    "verify_many": ({}, {"tokens": (None, 5, "tkdb_AgEM", b"", [None], [b"x"])}),
    "narrow": (
        {"token": "TOKEN"},
        {"token": NOT_TOKENS, "caveats": ("r", None, 5), "expires_in_s": (*NOT_LIFETIMES, 0.5), **RESTRICTIONS},
    ),
    "mint": (
        {"organization": "acme"},
        {
            "organization": (None, *NOT_TEXT, "Acme", "a" * 64, "acme\n"),
            "caveats": ("r", None, 5),
            "subject": (*NOT_TEXT, "a\n"),
            "expires_in_s": (*NOT_LIFETIMES, 1.5, 2**60),
            **RESTRICTIONS,
        },
    ),
    "revoke": ({"token": "TOKEN"}, {"token": NOT_TOKENS, "request_id": NOT_IDS}),
    "revoke_many": (
        {"targets": ["TOKEN"]},
        {"targets": (None, *EMPTY, 5, "tkdb_AgEM", [None], [b"x"], iter(())), "request_id": NOT_IDS},
    ),
    "revoke_before": (
        {"organization": "acme"},
        {
            "organization": (None, *NOT_TEXT),
            "before_ms": NOT_COUNTS,
            "subject": (*NOT_TEXT, "a" * 257),
            "request_id": NOT_IDS,
        },
    ),
    "retire_key": ({"kid": KID}, {"kid": (None, "k" * 16, b"", b"short", 5), "request_id": NOT_IDS}),
    "revocations": (
        {"kids": [KID]},
        {
            "kids": (None, *EMPTY, KID, 5, [b"short"], [None], [KID] * (api.MAX_KIDS + 1)),
            "after": (None, *NOT_COUNTS),
            "wait_ms": (None, *NOT_MS, api.MAX_WAIT_MS + 1),
        },
    ),
    "create_organization": (
        {"name": "new"},
        {"name": (None, *NOT_TEXT, "New"), "max_lifetime_s": (*NOT_LIFETIMES, 1.5), "request_id": NOT_IDS},
    ),
    "configure_organization": (
        {"name": "acme", "max_lifetime_s": 60},
        {"name": (None, *NOT_TEXT), "max_lifetime_s": (None, *NOT_LIFETIMES, 1.5), "request_id": NOT_IDS},
    ),
    "rotate_key": ({"name": "acme"}, {"name": (None, *NOT_TEXT), "request_id": NOT_IDS}),
    "delete_organization": ({"name": "other"}, {"name": (None, *NOT_TEXT), "request_id": NOT_IDS}),
    "reseal": ({}, {"progress": (5, "print"), "request_id": NOT_IDS}),
    "restore": ({"seq": 1}, {"seq": NOT_COUNTS, "at_ms": NOT_COUNTS, "request_id": NOT_IDS}),
    "hand_over": ({"machine": "m1"}, {"machine": (None, *NOT_TEXT, "a b", "a" * 65)}),
}
WITHOUT_ARGUMENTS = {"list_organizations", "status", "regions", "take_over", "close", "cache_info"}

CLIENT: dict[str, tuple[Any, ...]] = {
    "url": (5, *EMPTY, [5], [""], "ftp://x", object()),
    "authority": (5, "", b"tkdb=tkdbpub_x", "tkdb", []),
    "signer": (5, b"tkdbsigner_x", "x", [], False),
    "policy": ({}, "acme", 5),
    "timeout_ms": (None, 0, *NOT_MS),
    "attempt_timeout_ms": (None, 0, *NOT_MS),
    "cache_bytes": (None, *NOT_COUNTS),
    "bound_ms": (None, 0, *NOT_MS),
    "when_stale": (None, "", "maybe", []),
    "clock": (5, "now"),
    "random": (None, 5),
}

TESTING: Table = {
    "client": (
        {},
        {"signer": (b"x", 5), "policy": ({}, 5), "timeout_ms": (None, 0, *NOT_MS), "attempt_timeout_ms": ("3", 0)},
    ),
    "async_client": (
        {},
        {"signer": (b"x", 5), "policy": ({}, 5), "timeout_ms": (None, 0, *NOT_MS), "attempt_timeout_ms": ("3", 0)},
    ),
    "mint": METHODS["mint"],
    "revoke": ({}, {"token": NOT_TOKENS}),
    "create_organization": (
        {"name": "new"},
        {"name": (None, *NOT_TEXT, "New"), "max_lifetime_s": (*NOT_LIFETIMES, 1.5)},
    ),
    "faulty": ({"fault": Down()}, {"fault": (None, 5, Down), "regions": ("mars", 5, [])}),
}

CASES = [
    (method, argument, value)
    for method, (_, wrong) in METHODS.items()
    for argument, values in wrong.items()
    for value in values
]


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with Authority() as authority:
        yield authority


@pytest.fixture(scope="module")
def clients(authority: Authority) -> list[Client | AsyncClient]:
    return [authority.client(signer=authority.signer), authority.async_client(signer=authority.signer)]


def call(target: Any, method: str, given: dict[str, Any], argument: str, value: Any) -> None:
    """Call a method with one wrong value. ``caveats`` and ``regions`` are positional."""
    given = {name: each for name, each in given.items() if name != argument}
    further = [value] if argument == "caveats" or (method, argument) == ("faulty", "regions") else []
    if not further:
        given[argument] = value
    first = [given.pop(name) for name in ("token", "organization", "fault") if further and name in given]
    result = getattr(target, method)(*first, *further, **given)
    if inspect.iscoroutine(result):
        with asyncio.Runner() as runner:
            runner.run(result)
    elif hasattr(result, "__enter__") and method == "faulty":
        with result:
            pass


def fault_of(target: Any, method: str, given: dict[str, Any], argument: str, value: Any) -> str:
    """Return what is wrong with the error that a wrong value gets, or an empty text."""
    name = "a caveat" if argument == "caveats" else argument
    try:
        call(target, method, given, argument, value)
    except (errors.ConfigurationError, errors.InvalidCaveat) as error:
        if not re.match(rf"{re.escape(name)}(\[\d+\])?( is |=)", error.message) and argument not in {
            "url",
            "authority",
            "signer",
        }:
            return f"the message doesn't name it: {error}"
        if not error.hint and "expected" not in error.message:
            return f"there is no hint: {error}"
        if "$" in str(error) or "object at 0x" in str(error) or "Expected" in str(error):
            return f"the message shows the inside: {error}"
        return ""
    except Exception as error:  # noqa: BLE001  any other error is the fault that this test looks for
        return f"another error: {error!r}"
    return "no error"


def error_of(target: Any, method: str, given: dict[str, Any], argument: str, value: Any) -> str:
    try:
        call(target, method, given, argument, value)
    except errors.TkdbError as error:
        return str(error)
    return ""


def with_token(given: dict[str, Any], text: str) -> dict[str, Any]:
    return {name: text if each == "TOKEN" else [text] if each == ["TOKEN"] else each for name, each in given.items()}


def faults_of(clients: list[Any], authority: Authority, cases: list[tuple[str, str, Any]]) -> list[str]:
    text = authority.mint("acme").text
    return [
        f"{type(client).__bases__[0].__name__}.{method}({argument}={value!r}): {fault}"
        for client in clients
        for method, argument, value in cases
        if (fault := fault_of(client, method, with_token(METHODS[method][0], text), argument, value))
    ]


def test_every_wrong_argument_of_a_clients_method_is_named(clients: list[Any], authority: Authority) -> None:
    before = len(authority.calls)
    assert faults_of(clients, authority, CASES) == []
    assert len(authority.calls) == before, "a wrong argument was sent"


@pytest.mark.parametrize(
    ("module", "check", "without", "case"),
    [
        (arguments, "organization", lambda value, name="organization": value, ("mint", "organization", 5)),
        (arguments, "token", lambda value, name="token": value, ("narrow", "token", b"tkdb_AgEM")),
        (arguments, "targets", list, ("revoke_many", "targets", [])),
        (arguments, "kids", list, ("revocations", "kids", [])),
        (arguments, "request_id", lambda value: value, ("rotate_key", "request_id", b"short")),
    ],
)
def test_without_its_check_a_wrong_argument_is_found_by_this_test(
    monkeypatch: pytest.MonkeyPatch,
    clients: list[Any],
    authority: Authority,
    module: Any,
    check: str,
    without: Any,
    case: tuple[str, str, Any],
) -> None:
    monkeypatch.setattr(module, check, without)
    assert len(faults_of(clients, authority, [case])) == len(clients)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_wrong_setting_of_a_client_is_named(kind: type[Client | AsyncClient], authority: Authority) -> None:
    valid = {"url": "http://tkdb.flycast", "authority": authority.identity}
    faults = [
        f"{argument}={value!r}: {fault}"
        for argument, values in CLIENT.items()
        for value in values
        if (fault := fault_of(Holder(kind), "make", valid, argument, value))
    ]
    assert faults == []


class Holder:
    """Makes objects of a class, for the table."""

    def __init__(self, kind: Any) -> None:
        self.make = kind


def test_every_wrong_argument_of_the_testing_authority_is_named(authority: Authority) -> None:
    token = authority.mint("acme")
    faults = [
        f"{method}({argument}={value!r}): {fault}"
        for method, (given, wrong) in TESTING.items()
        for argument, values in wrong.items()
        for value in values
        if (fault := fault_of(authority, method, given, argument, value))
    ]
    made = {"regions": (None, *EMPTY, "here", [5]), "clock": (5, Policy()), "random": (None, 5)}
    faults += [
        f"{argument}={value!r}: {fault}"
        for argument, values in made.items()
        for value in values
        if (fault := fault_of(Regions(), "make", {}, argument, value))
    ]
    faults += [fault for value in ("5", None, -1, []) if (fault := fault_of(Clock(), "advance", {}, "seconds", value))]
    assert faults == []
    assert authority.client().verify(token).organization == "acme"


class Regions:
    """Makes a testing authority whose regions are a keyword, for the table."""

    def make(self, **given: Any) -> None:
        Authority(**given).close()


def test_the_tables_contain_every_method_and_argument() -> None:
    for kind in (Client, AsyncClient):
        public = {name for name, _ in inspect.getmembers(kind, inspect.isroutine) if not name.startswith("_")}
        assert public == METHODS.keys() | WITHOUT_ARGUMENTS
        for method, (_, wrong) in METHODS.items():
            assert wrong.keys() == parameters(getattr(kind, method)), method
        assert parameters(kind.__init__) == CLIENT.keys()
    methods = {name for name, _ in inspect.getmembers(Authority, inspect.isfunction) if not name.startswith("_")}
    assert methods == TESTING.keys() | {"close"}
    for method, (_, wrong) in TESTING.items():
        assert wrong.keys() == parameters(getattr(Authority, method)), method


def parameters(method: Any) -> set[str]:
    names = set(inspect.signature(method).parameters) - {"self"}
    return names - {"restrictions"} | (set(NAMES) if "restrictions" in names else set())


def test_no_error_repeats_a_token_in_the_place_of_another_argument(clients: list[Any], authority: Authority) -> None:
    text = authority.mint("acme").text
    for method, (given, wrong) in METHODS.items():
        for argument in wrong.keys() - {"token", "targets", "tokens", "path", "audience", "subject", "prefix"}:
            for value in (text, text.encode(), [text], {text: text}):
                assert text[10:50] not in error_of(clients[0], method, with_token(given, text), argument, value), method
    for argument in CLIENT:
        with pytest.raises(errors.TkdbError) as raised:
            Client(**{"url": "http://tkdb.flycast", "authority": authority.identity, argument: [text]})
        assert text[10:50] not in str(raised.value), argument


def test_reading_a_token_and_clearing_it_name_their_wrong_arguments(authority: Authority) -> None:
    verified = authority.client(policy=Policy(organization="acme")).verify(authority.mint("acme"))
    for wrong in (None, 5, [], {}, "r", object()):
        for method in (verified.clear, verified.allows):
            with pytest.raises(errors.ConfigurationError, match=r"^access( is |=)"):
                method(wrong)  # type: ignore[arg-type]  # wrong types
    for wrong in (None, 5, [], {}, object(), bytearray(b"x")):
        for read in (Macaroon.parse, Bundle.parse):
            with pytest.raises(errors.ConfigurationError, match=r"^token( is |=)"):
                read(wrong)  # type: ignore[arg-type]
        with pytest.raises(errors.ConfigurationError, match=r"^value( is |=)"):
            Bundle.from_header(wrong)  # type: ignore[arg-type]
        with pytest.raises(errors.ConfigurationError, match=r"^text( is |=)"):
            parse_public_key(wrong)  # type: ignore[arg-type]


def test_an_empty_list_of_tokens_has_an_empty_result(clients: list[Any]) -> None:
    assert clients[0].verify_many([]) == []


def test_durations_may_be_timedeltas(authority: Authority) -> None:
    minute = timedelta(minutes=1)
    client = authority.client(signer=authority.signer, timeout_ms=minute, attempt_timeout_ms=timedelta(seconds=1))
    token = client.mint("acme", expires_in_s=minute)
    assert token.caveats == client.mint("acme", expires_in_s=60).caveats
    assert client.narrow(token, expires_in_s=minute) == client.narrow(token, expires_in_s=60)
    made = client.create_organization("hourly", max_lifetime_s=timedelta(hours=1))
    assert made.max_lifetime_s == 3600
    assert client.configure_organization("hourly", max_lifetime_s=minute).max_lifetime_s == 60
    assert client.revocations([token.kid], wait_ms=timedelta(0)).revocations == []
    authority.clock.advance(timedelta(minutes=2))
    assert Policy(skew_s=minute).skew_s == 60
