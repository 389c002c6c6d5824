"""Commands in this process: their output as text and as JSON, and their exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import quick, tkdb
from tkdb import errors
from tkdb.cli.output import Output, exit_code
from tkdb.errors import TkdbError
from tkdb.macaroon.caveats import Act, Sub
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import ThirdParty, encode_text, write, write_third_party


def third_party(token: str, location: bytes) -> str:
    """Return ``token`` with a third-party caveat after its own caveats: readable, but with an invalid chain."""
    raw = Macaroon.parse(token).raw
    return encode_text(raw[:-35] + write_third_party(ThirdParty(location, b"ticket", bytes(72))) + raw[-35:])


def test_organizations_can_be_created_configured_rotated_listed_and_deleted(dev: dict[str, str]) -> None:
    made = json.loads(quick("org", "create", "shop", "--max-lifetime", "7d", "--json", env=dev).out)
    assert (made["name"], made["max_lifetime_s"], made["keys"][0]["state"]) == ("shop", 604_800, "signing")
    assert re.fullmatch("[0-9a-f]{32}", made["keys"][0]["kid"])
    assert quick("org", "create", "shop", env=dev).code == 1
    changed = json.loads(quick("org", "configure", "shop", "--max-lifetime", "1d", "--json", env=dev).out)
    assert changed["max_lifetime_s"] == 86_400
    assert quick("token", "mint", "shop", "--expires-in", "2d", env=dev).code == 1
    rotated = json.loads(quick("org", "rotate", "shop", "--json", env=dev).out)
    assert [key["state"] for key in rotated["keys"]] == ["signing", "verifying"]
    listed = json.loads(quick("org", "list", "--json", env=dev).out)["organizations"]
    assert "shop" in {each["name"] for each in listed}
    assert quick("org", "delete", "shop", env=dev).code == 2
    assert quick("org", "delete", "shop", "--yes", env=dev).out == "deleted shop\n"
    assert quick("token", "mint", "shop", env=dev).code == 1


def test_each_caveat_option_adds_its_caveat(token: str) -> None:
    options = [
        "--audience",
        "shop",
        "--action",
        "r",
        "--resource",
        "app:a=r",
        "--resource",
        "app:b:c=rw",
        "--ip",
        "10.0.0.0/8",
    ]
    options += ["--method", "GET", "--path", "/v1/*", "--caveat", '["x:plan",{"size":3}]', "--expires-in", "90s"]
    attenuated = quick("token", "narrow", *options, stdin=token)
    shown = json.loads(quick("token", "inspect", "--json", stdin=attenuated.out).out)["macaroons"][0]
    added = [caveat["text"] for caveat in shown["caveats"] if caveat["by"] == "holder"]
    assert added[:-1] == [
        '["aud","shop"]',
        '["act","r"]',
        '["res","app",{"a":"r","b:c":"rw"}]',
        '["ip",["10.0.0.0/8"]]',
        '["req",["GET"],["/v1/*"]]',
        '["x:plan",{"size":3}]',
    ]
    assert added[-1].startswith('["exp",')
    assert shown["narrowed"]
    assert shown["m"] == 3


CAVEAT_OPTIONS = (
    *("--action", "--resource", "--prefix", "--audience", "--ip", "--method", "--path", "--caveat", "--expires-in"),
)


@pytest.mark.parametrize("option", CAVEAT_OPTIONS)
def test_an_empty_restriction_is_refused(option: str, token: str, dev: dict[str, str]) -> None:
    for command, given in ((("narrow",), token), (("mint", "dev"), "")):
        ran = quick("token", *command, option, "", stdin=given, env=dev)
        assert (ran.code, ran.out) == (2, "")
        assert quick("token", *command, "--otherwise", "r", option, "", stdin=given, env=dev).code == 2


@pytest.mark.parametrize("option", ["--action", "--resource", "--audience", "--at"])
def test_an_empty_part_of_an_access_is_refused(option: str, token: str, dev: dict[str, str]) -> None:
    assert quick("token", "verify", option, "", stdin=token, env=dev).code == 2
    assert quick("token", "explain", option, "", stdin=token).code == 2


@pytest.mark.parametrize("option", ["--method", "--path", "--ip"])
def test_an_empty_part_of_a_request_is_cleared_against(option: str, token: str, dev: dict[str, str]) -> None:
    """It would leave the caveats uncleared if it counted as not given."""
    ran = quick("token", "verify", option, "", "--json", stdin=token, env=dev)
    assert (ran.code, json.loads(ran.out)["cleared"]) == (1, False)


def test_prefixes_and_the_actions_otherwise_are_caveats_too(token: str) -> None:
    ran = quick("token", "narrow", "--prefix", "object:logs/=r", "--otherwise", "rw", stdin=token)
    assert Macaroon.parse(ran.out.strip()).packets[-1] == b'["if",[["pre","object",{"logs/":"r"}]],"rw"]'
    ran = quick("token", "narrow", "--otherwise", "rw", stdin=token)
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: otherwise='rw' is given without resource and prefix")


def test_each_access_option_is_checked(token: str, dev: dict[str, str]) -> None:
    options = ["--action", "r", "--audience", "shop", "--ip", "10.0.0.0/8", "--method", "GET", "--path", "/v1/*"]
    attenuated = quick("token", "narrow", *options, stdin=token).out
    right = {"action": "r", "resource": "app=shop", "audience": "shop", "ip": "10.1.2.3"}
    right |= {"method": "GET", "path": "/v1/a"}
    arguments = [f"--{name}={value}" for name, value in right.items()]
    assert quick("token", "verify", *arguments, stdin=attenuated, env=dev).code == 0
    assert quick("token", "explain", *arguments, stdin=attenuated).code == 0
    wrong = {"action": "w", "resource": "app=shop2", "audience": "x", "ip": "11.1.2.3", "method": "PUT", "path": "/v2"}
    for name, value in (wrong | {"at": "2100-01-01T00:00:00Z"}).items():
        changed = [f"--{other}={each}" for other, each in (right | {name: value}).items()]
        assert quick("token", "verify", *changed, stdin=attenuated, env=dev).code == 1, name
        assert quick("token", "explain", *changed, stdin=attenuated).code == 1, name


def test_verify_as_json_names_the_reason_and_the_caveat(token: str, dev: dict[str, str]) -> None:
    asked = ["--action", "d", "--resource", "app=shop", "--json"]
    document = json.loads(quick("token", "verify", *asked, stdin=token, env=dev).out)
    assert (document["verified"], document["cleared"], document["organization"]) == (True, False, "dev")
    assert (document["denied"]["reason"], document["denied"]["caveat"]) == ("caveat unmet", 2)
    only = json.loads(quick("token", "verify", "--json", stdin=token, env=dev).out)
    assert (only["verified"], only["cleared"], only["denied"]) == (True, False, None)


def test_verify_distinguishes_a_truncated_token_from_a_forged_one(token: str, dev: dict[str, str]) -> None:
    assert quick("token", "verify", stdin=token[:-3], env=dev).out.startswith("denied: truncated")
    raw = Macaroon.parse(token).raw
    forged = encode_text(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert quick("token", "verify", stdin=forged, env=dev).out.startswith("denied: bad signature")


def test_a_token_is_read_from_a_file_stdin_or_the_environment_in_this_order(token: str, tmp_path: Path) -> None:
    path = tmp_path / "token.txt"
    path.write_text(token + "\n")
    other = quick("token", "narrow", "--action", "r", stdin=token).out

    def caveats(*arguments: str, **given: Any) -> int:
        shown = tkdb("token", "inspect", "--json", *arguments, **given)
        return len(json.loads(shown.out)["macaroons"][0]["caveats"])

    assert caveats("--token-file", str(path), stdin=other, env={"TKDB_TOKEN": other}) == 3
    assert caveats(stdin=token, env={"TKDB_TOKEN": other}) == 3
    assert caveats(stdin="", env={"TKDB_TOKEN": other}) == 4
    assert caveats("--token-file", "-", stdin=f"Bearer {other}") == 4
    missing = tkdb("token", "inspect")
    assert missing.code == 2
    assert "--token-file" in missing.err


def test_inspect_shows_no_signature(token: str) -> None:
    raw = Macaroon.parse(token).raw
    tail = raw[-32:]
    for arguments in (("inspect",), ("inspect", "--json"), ("explain", "--action", "r"), ("explain", "--json")):
        shown = quick("token", *arguments, stdin=token)
        assert tail.hex() not in shown.out + shown.err
        assert token[-60:] not in shown.out + shown.err


def test_inspect_reads_a_macaroon_of_another_system() -> None:
    foreign = encode_text(write(b"elsewhere", b"their id", [b"user = kim", b'["act","r"]'], bytes(32)))
    shown = quick("token", "inspect", stdin=foreign)
    assert shown.code == 0
    assert "another system's macaroon" in shown.out
    assert "user = kim" in shown.out


def test_explain_names_misplaced_facts_third_parties_and_unknown_caveats(token: str) -> None:
    parsed = Macaroon.parse(token)
    fact = parsed.extend([Sub("admin")]).text
    shown = quick("token", "explain", "--action", "r", "--resource", "app=shop", stdin=fact)
    assert shown.code == 1
    assert "states a fact, but only the first 3 are the authority's own words" in shown.out
    shown = quick("token", "explain", "--action", "r", stdin=third_party(token, b"login"))
    assert "it needs a discharge from login" in shown.out
    unknown = encode_text(write(parsed.location, parsed.identifier, [*parsed.packets, b'["new",1]'], bytes(32)))
    assert '["new",1]' in quick("token", "explain", "--action", "r", stdin=unknown).out
    assert "not verified" in shown.err


def test_the_content_of_a_token_cannot_control_the_terminal(token: str) -> None:
    evil = third_party(token, b"\x1b[2J\rverified\n")
    for command in ("inspect", "explain"):
        shown = quick("token", command, stdin=evil)
        assert "\x1b" not in shown.out
        assert "\r" not in shown.out


def test_revoking_without_a_signer_key_revokes_only_the_branch(token: str, dev: dict[str, str]) -> None:
    child = quick("token", "narrow", "--action", "r", stdin=token).out
    holder = {name: value for name, value in dev.items() if name != "TKDB_SIGNER"}
    assert quick("token", "revoke", stdin=child, env=holder).code == 0
    assert quick("token", "verify", stdin=child, env=dev).code == 1
    assert quick("token", "verify", stdin=token, env=dev).code == 0


def test_a_branch_a_lineage_a_subject_or_a_key_can_be_revoked_by_name(token: str, dev: dict[str, str]) -> None:
    parsed = Macaroon.parse(token)
    child = parsed.narrow(Act("r"))
    lineage = parsed.lineage.hex()
    assert quick("token", "revoke", "--lineage", lineage, "--branch", child.branch.hex(), env=dev).code == 0
    assert quick("token", "verify", stdin=child.text, env=dev).code == 1
    assert quick("token", "verify", stdin=token, env=dev).code == 0
    assert quick("token", "revoke", "--lineage", lineage, env=dev).code == 0
    assert quick("token", "verify", stdin=token, env=dev).code == 1
    quick("org", "create", "short", env=dev)
    other = quick("token", "mint", "short", "--subject", "kim", env=dev).out
    assert quick("token", "revoke", "--organization", "short", "--subject", "kim", "--yes", env=dev).code == 0
    assert quick("token", "verify", stdin=other, env=dev).code == 1
    fresh = quick("token", "mint", "short", env=dev).out.strip()
    assert quick("token", "revoke", "--key", Macaroon.parse(fresh).kid.hex(), "--yes", env=dev).code == 0
    assert quick("token", "verify", stdin=fresh, env=dev).code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--branch", "00" * 16),
        ("--subject", "kim"),
        ("--lineage", "00" * 32, "--key", "00" * 16),
        ("--lineage", "xyz"),
        ("--organization", "dev", "--before", "yesterday"),
    ],
)
def test_invalid_or_contradictory_targets_exit_with_2(arguments: tuple[str, ...]) -> None:
    assert quick("token", "revoke", *arguments).code == 2


def test_every_error_exits_with_1_2_or_3() -> None:
    def kinds(kind: type[TkdbError]) -> list[type[TkdbError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in kinds(child))]

    found = {kind.__name__: exit_code(kind("")) for kind in kinds(TkdbError)}
    assert set(found.values()) == {1, 2, 3}
    expected = {"RevokedToken": 1, "NotPermitted": 1, "BrokenJournal": 1, "ConfigurationError": 2, "WrongSealKey": 2}
    expected |= {"UsageError": 2, "InvalidCaveat": 2, "OutcomeUnknown": 3, "StoreError": 3, "ChannelError": 3}
    assert {name: found[name] for name in expected} == expected


def test_completion_lists_the_commands() -> None:
    asked = {"_TKDB_COMPLETE": "complete_bash", "COMP_WORDS": "tkdb token ", "COMP_CWORD": "2"}
    assert {"mint", "verify", "revoke"} <= set(tkdb(env=asked).out.split())


def test_tkdb_without_arguments_shows_the_help_and_help_imports_no_large_library() -> None:
    assert "Exit codes:" in tkdb().out
    loaded = tkdb("--help", env={"PYTHONPROFILEIMPORTTIME": "1"}).err
    for heavy in ("rich", "httpcore", "starlette", "hypercorn", "cryptography"):
        assert not re.search(rf"\| +{heavy}$", loaded, re.MULTILINE), heavy


def test_an_unset_variable_is_named(dev: dict[str, str]) -> None:
    for name in ("TKDB_URL", "TKDB_AUTHORITY"):
        ran = quick("status", env={other: value for other, value in dev.items() if other != name})
        assert (ran.code, ran.err.splitlines()[0]) == (2, f"error: {name} is not set")
    unsigned = {name: value for name, value in dev.items() if name != "TKDB_SIGNER"}
    assert quick("token", "mint", "dev", env=unsigned).code == 2


def test_a_restore_undoes_later_changes_and_counts_them(dev: dict[str, str]) -> None:
    [machine] = json.loads(quick("status", "--json", env=dev).out)["machines"]
    position = machine["position"]
    assert quick("org", "create", "since", env=dev).code == 0
    assert quick("restore", "--seq", str(position), env=dev).code == 2
    done = quick("restore", "--seq", str(position), "--yes", env=dev)
    assert done.out == f"restored to entry {position}: 2 organizations and keys changed\n"
    again = quick("restore", "--seq", str(position), "--yes", "--json", env=dev)
    assert json.loads(again.out) == {"seq": position, "changed": 0}
    assert quick("org", "rotate", "since", env=dev).code == 1


@pytest.mark.parametrize("options", [(), ("--seq", "1", "--at", "5"), ("--seq", "0"), ("--at", "tomorrow")])
def test_a_restore_without_exactly_one_valid_target_exits_with_2(dev: dict[str, str], options: tuple[str, ...]) -> None:
    assert quick("restore", *options, "--yes", env=dev).code == 2


def test_a_restore_to_a_time_after_the_last_entry_is_refused(dev: dict[str, str]) -> None:
    refused = quick("restore", "--at", "2100-01-01", "--yes", env=dev)
    assert (refused.code, "there is no entry after that time" in refused.err) == (1, True)


def test_a_write_is_repeated_by_its_request_id(dev: dict[str, str]) -> None:
    chosen = "0123456789abcdef" * 2
    made = quick("org", "create", "once", "--request-id", chosen, env=dev)
    again = quick("org", "create", "once", "--request-id", chosen, env=dev)
    assert (made.code, again.code) == (0, 0)
    assert made.out == again.out
    assert quick("org", "create", "once", env=dev).code == 1
    assert quick("org", "rotate", "once", "--request-id", chosen, env=dev).code == 1
    for wrong in ("", "xyz", chosen[1:]):
        ran = quick("org", "rotate", "once", "--request-id", wrong, env=dev)
        assert (ran.code, ran.err.splitlines()[0]) == (2, f"error: request_id={wrong!r} is not a request id")


def test_an_unknown_outcome_shows_its_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.OutcomeUnknown("its outcome is unknown", request_id=bytes(16))
    assert Output(json=True).fail(error) == 3
    assert json.loads(capsys.readouterr().out)["error"]["request_id"] == "00" * 16
