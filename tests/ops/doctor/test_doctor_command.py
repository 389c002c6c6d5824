"""``tkdb doctor`` at a terminal: its output, the machines that it asks, and its exit codes."""

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
from tests.fake_fly import TOKEN, filled
from tests.ops.doctor.doctor_report import doctor
from tkdb import api, errors
from tkdb.channel.keys import AuthorityIdentity
from tkdb_ops.doctor import reach

TOML = Path(__file__).parents[3] / "fly.toml"


@pytest.fixture
def authority() -> Iterator[FakeAuthority]:
    with FakeAuthority() as authority:
        yield authority


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "AGAIN_S", 0)


def variables(authority: FakeAuthority) -> dict[str, str]:
    return {"TKDB_URL": authority.url, "TKDB_AUTHORITY": authority.identity.text()}


def test_without_a_subject_the_error_lists_what_to_give() -> None:
    ran = quick("doctor")
    assert (ran.code, ran.out) == (2, "")
    assert "there is nothing to check" in ran.err
    assert "TKDB_URL and TKDB_AUTHORITY" in ran.err


def test_a_failed_check_is_shown_with_its_fix_on_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "fly.toml"
    wrong.write_text(filled(TOML.read_text()).replace('"/readyz"', '"/livez"'))
    ran = quick("doctor", "--config", str(wrong))
    assert ran.code == 1
    (line,) = [each for each in ran.out.splitlines() if each.startswith("✗")]
    assert "/livez is requested" in line
    assert line.endswith('path = "/readyz", then `fly deploy`')
    assert ran.out.splitlines()[-1] == "10 checks passed, 1 failed, 16 not made"
    assert "- BUCKET_NAME isn't set: bucket-fit, bucket-strong, bucket-outlives, bucket-closed, bucket-head" in ran.out


def test_output_is_coloured_on_a_terminal_only() -> None:
    shown = on_a_terminal("doctor", "--config", str(TOML))
    assert "\x1b[32m✓" in shown
    assert "\x1b[" not in quick("doctor", "--config", str(TOML)).out


def test_a_machine_that_reports_no_time_does_not_pass_the_clock_check(authority: FakeAuthority) -> None:
    report = doctor(**variables(authority))
    assert report.unknown("clocks") == "no machine reported its time"
    assert report.code == 3
    assert "one-cluster" in report.outcomes("passed")


def test_the_reason_of_a_refusal_is_shown(authority: FakeAuthority) -> None:
    def busy(call: object) -> api.StatusReport:
        raise errors.Overloaded("256 requests are in progress")

    authority.handler = busy
    assert "256 requests are in progress" in doctor(**variables(authority)).failure("machines-answer")


def test_each_of_the_authoritys_keys_is_tried(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node:
        old, now = Brain().secrets[0].public, node.keys.authority.public
        both = AuthorityIdentity(node.keys.identity.name, (old, now))
        report = doctor(TKDB_URL=node.url, TKDB_AUTHORITY=both.text())
        assert "identity" in report.outcomes("passed"), report.document
        other = AuthorityIdentity(node.keys.identity.name, (old,))
        assert "can't open" in doctor(TKDB_URL=node.url, TKDB_AUTHORITY=other.text()).failure("identity")


def test_every_given_url_is_asked(authority: FakeAuthority) -> None:
    with FakeAuthority(secrets=authority.secrets) as other:
        other.handler = lambda call: fake.report()
        environment = variables(authority) | {"TKDB_URL": f"{authority.url},{other.url}"}
        report = doctor(**environment)
        assert report.by_check["machines-answer"]["found"] == "2 machines, at most 0.0 s behind"
        assert report.failure("regions") == "the only machine is in iad"  # Both report the name m1.


def test_a_url_without_an_answer_is_named() -> None:
    report = doctor(TKDB_URL="http://127.0.0.1:9", TKDB_AUTHORITY=Brain().identity.text())
    assert report.code == 1
    assert "http://127.0.0.1:9 doesn't answer: http://127.0.0.1:9 refuses connections" in report.failure(
        "machines-answer"
    )


def test_an_unresolvable_name_is_not_a_failure_of_the_authority() -> None:
    report = doctor(TKDB_URL="http://no-such-app.flycast", TKDB_AUTHORITY=Brain().identity.text())
    assert (report.code, report.outcomes("failed"), report.outcomes("passed")) == (3, set(), set())
    assert "is this machine on the authority's private network?" in report.unknown("private-address")


def test_control_characters_in_a_status_report_are_escaped(authority: FakeAuthority) -> None:
    authority.handler = lambda call: api.StatusReport(
        name="tkdb.test", version="1\x1b[2J", role="primary", region="iad", machine="m1\x1b[2J", uptime_ms=1,
        position=1, age_ms=0, fault="\x1b[31m",
    )  # fmt: skip
    ran = quick("doctor", env=variables(authority))
    assert "\x1b" not in ran.out
    assert "\\x1b" in ran.out


def test_the_token_is_never_shown() -> None:
    given = {"FLY_API_TOKEN": TOKEN, "FLY_API_HOSTNAME": "http://127.0.0.1:9"}
    ran = quick("doctor", "--json", "--app", "acme", env=given)
    assert (ran.code, TOKEN in ran.out + ran.err) == (3, False)
    assert json.loads(ran.out)["ok"] is False
    app_is_token = quick("doctor", "--app", TOKEN, env=given)
    assert (app_is_token.code, TOKEN in app_is_token.out + app_is_token.err) == (2, False)
