"""``tkdb doctor`` at a terminal: what it says, to whom, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import quick
from tests.cli.test_cli_terminal import on_a_terminal
from tests.client import fake_authority as fake
from tests.client.fake_authority import Brain, FakeAuthority
from tests.end_to_end.node import Node
from tests.fake_fly import TOKEN
from tests.ops.doctor.examined import doctor
from tkdb import api, errors
from tkdb.channel.keys import AuthorityIdentity
from tkdb_ops.doctor import reach

TOML = Path(__file__).parents[3] / "fly.toml"


@pytest.fixture
def authority() -> Iterator[FakeAuthority]:
    with FakeAuthority() as authority:
        yield authority


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "AGAIN_S", 0)


def variables(authority: FakeAuthority) -> dict[str, str]:
    return {"TKDB_URL": authority.url, "TKDB_AUTHORITY": authority.identity.text()}


def test_without_anything_to_look_at_it_says_what_to_give() -> None:
    ran = quick("doctor")
    assert (ran.code, ran.out) == (2, "")
    assert "there is nothing to check" in ran.err
    assert "TKDB_URL and TKDB_AUTHORITY" in ran.err


def test_what_is_red_stands_with_what_to_do_on_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "fly.toml"
    wrong.write_text(TOML.read_text().replace('"/readyz"', '"/livez"'))
    ran = quick("doctor", "--config", str(wrong))
    assert ran.code == 1
    (line,) = [each for each in ran.out.splitlines() if each.startswith("✗")]
    assert "/livez is requested" in line
    assert line.endswith('path = "/readyz", then `fly deploy`')
    assert ran.out.splitlines()[-1] == "9 checks passed, 1 failed, 16 not made"
    assert "- BUCKET_NAME isn't set: bucket-fit, bucket-strong, bucket-outlives, bucket-closed, bucket-head" in ran.out


def test_it_is_coloured_on_a_terminal_only() -> None:
    shown = on_a_terminal("doctor", "--config", str(TOML))
    assert "\x1b[32m✓" in shown
    assert "\x1b[" not in quick("doctor", "--config", str(TOML)).out


def test_a_machine_that_does_not_say_its_time_is_no_clock_that_is_right(authority: FakeAuthority) -> None:
    examined = doctor(**variables(authority))
    assert examined.unlearned("clocks") == "no machine reported its time"
    assert examined.code == 3
    assert "one-cluster" in examined.outcomes("passed")


def test_a_machine_that_refuses_says_why(authority: FakeAuthority) -> None:
    def busy(call: object) -> api.StatusReport:
        raise errors.Overloaded("256 requests are in progress")

    authority.handler = busy
    assert "256 requests are in progress" in doctor(**variables(authority)).found("machines-answer")


def test_each_of_the_authoritys_keys_is_tried(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node:
        old, now = Brain().secrets[0].public, node.keys.authority.public
        both = AuthorityIdentity(node.keys.identity.name, (old, now))
        examined = doctor(TKDB_URL=node.url, TKDB_AUTHORITY=both.text())
        assert "identity" in examined.outcomes("passed"), examined.document
        other = AuthorityIdentity(node.keys.identity.name, (old,))
        assert "can't open" in doctor(TKDB_URL=node.url, TKDB_AUTHORITY=other.text()).found("identity")


def test_machines_with_urls_of_their_own_are_asked_at_them(authority: FakeAuthority) -> None:
    with FakeAuthority(secrets=authority.secrets) as other:
        other.handler = lambda call: fake.report()
        environment = variables(authority) | {"TKDB_URL": f"{authority.url},{other.url}"}
        examined = doctor(**environment)
        assert examined.by_check["machines-answer"]["found"] == "2 machines, at most 0.0 s behind"
        assert examined.found("regions") == "the only machine is in iad"  # both say that they are m1


def test_who_is_asked_is_said_where_nobody_answers() -> None:
    examined = doctor(TKDB_URL="http://127.0.0.1:9", TKDB_AUTHORITY=Brain().identity.text())
    assert examined.code == 1
    assert "http://127.0.0.1:9 doesn't answer: http://127.0.0.1:9 refuses connections" in examined.found(
        "machines-answer"
    )


def test_a_name_that_is_not_known_here_is_no_fault_of_the_authority() -> None:
    examined = doctor(TKDB_URL="http://no-such-app.flycast", TKDB_AUTHORITY=Brain().identity.text())
    assert (examined.code, examined.outcomes("failed"), examined.outcomes("passed")) == (3, set(), set())
    assert "is this machine on the authority's private network?" in examined.unlearned("private-address")


def test_what_an_authority_says_of_itself_is_not_obeyed_by_a_terminal(authority: FakeAuthority) -> None:
    authority.handler = lambda call: api.StatusReport(
        name="tkdb.test", version="1\x1b[2J", role="primary", region="iad", machine="m1\x1b[2J", uptime_ms=1,
        position=1, age_ms=0, fault="\x1b[31m",
    )  # fmt: skip
    ran = quick("doctor", env=variables(authority))
    assert "\x1b" not in ran.out
    assert "\\x1b" in ran.out


def test_the_token_is_shown_nowhere() -> None:
    given = {"FLY_API_TOKEN": TOKEN, "FLY_API_HOSTNAME": "http://127.0.0.1:9"}
    ran = quick("doctor", "--json", "--app", "acme", env=given)
    assert (ran.code, TOKEN in ran.out + ran.err) == (3, False)
    assert json.loads(ran.out)["ok"] is False
    mistaken = quick("doctor", "--app", TOKEN, env=given)
    assert (mistaken.code, TOKEN in mistaken.out + mistaken.err) == (2, False)
