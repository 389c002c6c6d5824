"""For any input, a command ends with a message and an exit code, without a traceback and without a secret."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import profiles
from tests.cli.processes import quick, tkdb
from tkdb.channel.keys import AuthoritySecret, SignerSecret
from tkdb.cli.inputs import check_arguments, duration, instant, resources
from tkdb.cli.output import UsageError, clean
from tkdb.journal.seal import SealKey
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import encode_text, write

TOKEN = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1, random=bytes(10), caveats=[Exp(2**40), Act("rw")])
BARE_V2 = base64.urlsafe_b64encode(TOKEN.raw).rstrip(b"=").decode()
SECRETS = [
    TOKEN.text,
    f"Bearer {TOKEN.text}",
    f"--token={TOKEN.text}",
    f"--token-file={TOKEN.text}",
    f"{TOKEN.text},{TOKEN.text}",
    TOKEN.text[:-10],
    BARE_V2,
    AuthoritySecret.generate(os.urandom).text(),
    SignerSecret.generate(os.urandom).text(),
    SealKey(bytes(32)).text(),
]
texts = st.text(max_size=200)


@pytest.mark.parametrize("secret", SECRETS, ids=range(len(SECRETS)))
def test_a_secret_among_the_arguments_is_refused_and_never_repeated(secret: str) -> None:
    for arguments in ([secret], ["token", "verify", secret], ["--json", "token", "mint", secret]):
        ran = quick(*arguments)
        assert ran.code == 2
        assert "treat it as leaked" in ran.err
        assert secret[-30:] not in ran.out + ran.err


@pytest.mark.parametrize(
    "harmless",
    ["tkdb_production_database_of_the_shop.db", "/var/lib/tkdb_of_the_shop_in_singapore/x", "tkdb_", "-h",
     "tkdb.example=tkdbpub_j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF84MRDEv"],
)  # fmt: skip
def test_paths_and_public_keys_are_accepted_as_arguments(harmless: str) -> None:
    check_arguments([harmless])


@given(presented=texts | st.binary(max_size=300) | st.sampled_from([TOKEN.text, TOKEN.text + "," + TOKEN.text]))
@settings(max_examples=profiles.CURRENT.few_examples)
def test_any_text_as_a_token_gives_output_or_an_error(presented: str | bytes) -> None:
    given = presented.encode("utf-8", "surrogatepass") if isinstance(presented, str) else presented
    for arguments in (["inspect"], ["explain", "--action", "r"], ["narrow", "--action", "r"], ["inspect", "--json"]):
        ran = quick("token", *arguments, stdin=given)
        assert ran.code in {0, 1, 2}
        assert ran.out or "error: " in ran.err


@given(raw=st.binary(min_size=1, max_size=60), location=st.binary(min_size=1, max_size=40))
@settings(max_examples=profiles.CURRENT.few_examples)
def test_any_bytes_in_a_macaroon_are_shown_escaped(raw: bytes, location: bytes) -> None:
    token = encode_text(write(location, TOKEN.identifier[:-1] + b"\0", [raw, b"x" + raw], bytes(32)))
    for command in ("inspect", "explain"):
        ran = quick("token", command, stdin=token)
        assert ran.code in {0, 1}
        assert all(each.isprintable() or each == "\n" for each in ran.out)


ACCESS = ["--action", "--resource", "--audience", "--method", "--path", "--ip", "--at"]
OPTIONS = ["--action", "--resource", "--audience", "--method", "--path", "--ip", "--caveat", "--expires-in"]


@given(option=st.sampled_from(OPTIONS), value=texts)
@settings(max_examples=profiles.CURRENT.few_examples)
def test_any_text_as_a_caveat_is_written_or_refused(option: str, value: str) -> None:
    ran = quick("token", "narrow", f"{option}={value}", stdin=TOKEN.text)
    assert ran.code in {0, 1, 2}
    if ran.code:
        assert ran.err.startswith("error: ")
    else:
        assert len(Macaroon.parse(ran.out.strip()).packets) == 3


@given(option=st.sampled_from(ACCESS), value=texts)
@settings(max_examples=profiles.CURRENT.few_examples)
def test_any_text_as_an_access_is_decided_or_refused(option: str, value: str) -> None:
    ran = quick("token", "explain", f"{option}={value}", stdin=TOKEN.text)
    assert ran.code in {1, 2} or (ran.code == 0 and value)


@pytest.mark.parametrize("read", [duration, instant, lambda text: resources([text])])
@given(text=texts)
@settings(max_examples=profiles.CURRENT.few_examples)
def test_parsers_raise_only_usage_errors(read: Callable[[str], Any], text: str) -> None:
    with suppress(UsageError):
        read(text)


@given(text=st.text(st.characters(), max_size=100))
def test_clean_text_contains_only_printable_characters_and_newlines(text: str) -> None:
    assert all(each.isprintable() or each == "\n" for each in clean(text))


def test_an_argument_of_invalid_utf_8_is_refused() -> None:
    ran = tkdb("token", "mint", os.fsdecode(b"\xff\xfe"))
    assert ran.code == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [("nonsense",), ("token",), ("token", "mint"), ("token", "mint", "a", "--x")])
def test_a_wrong_command_line_prints_two_lines_and_exits_with_2(arguments: tuple[str, ...]) -> None:
    ran = quick(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == ["error", "try"]


def test_a_token_input_that_is_too_large_or_unreadable_is_refused() -> None:
    assert quick("token", "inspect", stdin=b"a" * (1 << 21)).code == 2
    assert quick("token", "inspect", "--token-file", "/nonexistent").code == 2
    assert quick("token", "inspect", "--token-file", "a\0b").code == 2
    assert quick("token", "inspect", "--token-file", "/").code == 2
