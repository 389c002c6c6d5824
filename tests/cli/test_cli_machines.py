"""``tkdb status`` and ``tkdb promote`` against fake machines of one authority. Each test sets their reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.processes import CommandResult, quick
from tests.client import fake_authority as fake
from tests.client.fake_authority import Brain, FakeAuthority
from tkdb import api, errors
from tkdb.cli import promote
from tkdb.cli.connect import connect
from tkdb.cli.machines import urls
from tkdb.cli.output import UsageError
from tkdb.macaroon.caveats import Exp
from tkdb.macaroon.mint import mint
from tkdb_client.settings import URLS_MAX

UNREACHABLE = "http://127.0.0.1:9"


class Cluster:
    """Machines that share a head. After a move is requested, each status call makes the next change of ``moves``."""

    def __init__(self, stack: ExitStack, *names: str) -> None:
        brain = Brain()
        self.head: api.Cluster | None = api.Cluster(7, 31044, 1412, names[-1], "iad", 9_000, 1_200, 100, 5_000)
        self.moves: list[dict[str, Any]] = []
        self.moving = False
        self.asked: list[tuple[str, Any]] = []
        self.reports = {name: fake.report() for name in names}
        self.machines = {
            name: stack.enter_context(FakeAuthority(secrets=brain.secrets, signer=brain.signer)) for name in names
        }
        for name, machine in self.machines.items():
            role = "primary" if name == names[-1] else "replica"
            self.set_report(name, machine=name, region=name[:3], role=role, position=1412, age_ms=200)
            machine.handler = lambda call, name=name: self.answer(name, call)

    def set_report(self, name: str, **fields: Any) -> None:
        self.reports[name] = msgspec.structs.replace(self.reports[name], **fields)

    def answer(self, name: str, call: Any) -> msgspec.Struct:
        if isinstance(call, api.Status):
            if self.moving and self.moves and self.head is not None:
                self.head = msgspec.structs.replace(self.head, **self.moves.pop(0))
            return msgspec.structs.replace(self.reports[name], cluster=self.head)
        self.asked.append((name, call))
        self.moving = True
        return api.HandedOver(call.machine) if isinstance(call, api.HandOver) else api.TakenOver(name, 8)

    def env(self, *names: str, more: tuple[str, ...] = ()) -> dict[str, str]:
        chosen = [self.machines[name] for name in names or self.machines]
        return {
            "TKDB_URL": ",".join([*(each.url for each in chosen), *more]),
            "TKDB_AUTHORITY": chosen[0].identity.text() if chosen else "",
            "TKDB_SIGNER": chosen[0].signer.text(),
        }

    def run(self, *arguments: str, machines: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> CommandResult:
        return quick(*arguments, env=self.env(*machines, more=more))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, "syd-1", "ams-1", "iad-1")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promote, "POLL_S", 0.001)
    monkeypatch.setattr("tkdb.cli.machines.EACH_TIMEOUT_MS", 300)
    monkeypatch.setitem(connect.__kwdefaults__, "timeout_ms", 300)
    monkeypatch.setattr("tkdb_client.operations.MOVE_MS", 100)


def cells(ran: CommandResult) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in ran.out.splitlines()]


def test_status_prints_a_row_for_each_machine_and_a_line_for_the_head(cluster: Cluster) -> None:
    ran = cluster.run("status")
    assert (ran.code, ran.err) == (0, "")
    header, *rows, head, lease = ran.out.splitlines()
    assert header.split() == ["REGION", "MACHINE", "ROLE", "SEQ", "LAG", "FRESH", "HEALTH", "ANSWERED"]
    assert {tuple(row.split()[:8]) for row in rows} == {
        ("syd", "syd-1", "replica", "1412", "0", "0.2", "s", "ok"),
        ("ams", "ams-1", "replica", "1412", "0", "0.2", "s", "ok"),
        ("iad", "iad-1", "primary", "1412", "0", "0.2", "s", "ok"),
    }
    assert head == "primary iad-1 in iad · epoch 7 · rev 31044 · seq 1412"
    assert lease == "lease 9.0 s · last change 1.3 s ago · read 0.1 s ago"


def test_url_options_take_precedence_over_the_environment(cluster: Cluster) -> None:
    arguments = [f"--url={cluster.machines[name].url}" for name in ("syd-1", "iad-1")]
    ran = quick("status", "--json", *arguments, env=cluster.env("ams-1"))
    assert {each["machine"] for each in json.loads(ran.out)["machines"]} == {"syd-1", "iad-1"}
    without = {name: value for name, value in cluster.env().items() if name != "TKDB_URL"}
    assert quick("status", *arguments, env=without).code == 0


def test_status_shows_lagging_stale_and_unreachable_machines_and_exits_with_3(cluster: Cluster) -> None:
    cluster.set_report("syd-1", position=1400)
    cluster.set_report("ams-1", fault="the head was last read 6.1 s ago", age_ms=None)
    ran = cluster.run("status", more=(UNREACHABLE,))
    assert ran.code == 3
    lines = cells(ran)
    rows = {line[1]: line[3:] for line in lines[1:4]}
    assert rows["syd-1"][:4] == ["1400", "12", "0.2 s", "ok"]
    assert rows["ams-1"][:4] == ["1412", "0", "unknown", "faulty"]
    assert [UNREACHABLE, "unreachable"] in lines
    assert ["ams-1", "the head was last read 6.1 s ago"] in lines
    assert any(line[0] == UNREACHABLE and "couldn't be connected to" in line[1] for line in lines)
    document = json.loads(cluster.run("status", "--json", more=(UNREACHABLE,)).out)
    assert document["ok"] is False
    assert [each["url"] for each in document["machines"] if "error" in each] == [UNREACHABLE]
    assert document["head"]["primary"] == "iad-1"


@pytest.mark.parametrize(
    ("change", "expected"), [({"primary": ""}, "primary none"), ({"unchanged_ms": 9_001}, "may take")]
)
def test_status_without_a_primary_exits_with_3(cluster: Cluster, change: dict[str, Any], expected: str) -> None:
    assert cluster.head is not None
    cluster.head = msgspec.structs.replace(cluster.head, **change)
    for machines in ((), ("syd-1",)):
        ran = cluster.run("status", machines=machines)
        assert ran.code == 3
        assert any(expected in line for line in ran.out.splitlines()[-2:])


@pytest.mark.parametrize("machines", [(), ("iad-1",)])
def test_status_past_the_bound_shows_the_primary_as_unknown(cluster: Cluster, machines: tuple[str, ...]) -> None:
    assert cluster.head is not None
    cluster.head = msgspec.structs.replace(cluster.head, read_ms=42_000)
    ran = cluster.run("status", machines=machines)
    assert ran.code == 3
    *shown, head, last = ran.out.splitlines()
    assert head == "primary unknown · read 42.0 s ago, the bound is 5.0 s"
    assert last == "at that time the primary was iad-1 in iad · epoch 7 · rev 31044 · seq 1412"
    assert not any(" primary" in line or " replica" in line for line in shown)
    assert any("unknown" in line for line in shown)
    assert cluster.run("promote", "iad-1", "--dry-run").code == 0
    regions = cluster.run("regions")
    assert "primary" not in regions.out
    assert "unknown" in regions.out


def test_without_the_bound_status_would_show_the_primary_of_an_old_reading(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.head is not None
    cluster.head = msgspec.structs.replace(cluster.head, read_ms=42_000)
    monkeypatch.setattr(api.Cluster, "is_current", True)
    assert "primary iad-1 in iad" in cluster.run("status").out


def test_status_of_one_machine_shows_its_details_and_the_head(cluster: Cluster) -> None:
    ran = cluster.run("status", machines=("syd-1",))
    assert ran.code == 0
    words = [line.split()[0] for line in ran.out.splitlines()]
    assert words == ["ok", "role", "region", "machine", "seq", "fresh", "version", "up", "answered", "primary", "lease"]
    cluster.set_report("syd-1", fault="the head is broken")
    faulty = cluster.run("status", machines=("syd-1",))
    assert (faulty.code, faulty.out.splitlines()[1]) == (3, "why       the head is broken")


def test_status_of_a_machine_that_stands_alone_shows_no_head(cluster: Cluster) -> None:
    cluster.head = None
    ran = cluster.run("status", machines=("iad-1",))
    assert ran.code == 0
    assert "epoch" not in ran.out
    document = json.loads(cluster.run("status", "--json", machines=("iad-1",)).out)
    [machine] = document["machines"]
    assert (machine["machine"], machine["position"], document["head"]) == ("iad-1", 1412, None)


def test_promote_without_a_reachable_machine_exits_with_3(cluster: Cluster) -> None:
    ran = quick("promote", "ams-1", env=cluster.env() | {"TKDB_URL": UNREACHABLE + "," + UNREACHABLE + "1"})
    assert (ran.code, ran.out) == (3, "")
    assert UNREACHABLE in ran.err


@given(st.lists(st.one_of(st.text(max_size=30), st.from_regex(r"http://[a-z]{1,2}(,http://[a-z]/? )*")), max_size=80))
def test_any_list_of_urls_is_deduplicated_or_refused(given: list[str]) -> None:
    try:
        found = urls(given)
    except (errors.ConfigurationError, UsageError):
        return
    assert 1 <= len(found) <= URLS_MAX
    assert len(set(found)) == len(found)
    assert all(each and "," not in each for each in found)


def test_promote_asks_the_primary_and_waits_for_the_new_one(cluster: Cluster) -> None:
    cluster.moves = [{"primary": ""}] * 3 + [{"primary": "ams-1", "region": "ams", "epoch": 8, "rev": 31050}]
    ran = cluster.run("promote", "ams-1")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("ams-1 is primary, of epoch 8, after ")
    assert cluster.asked == [("iad-1", api.HandOver("ams-1"))]


def test_promote_through_a_proxy_asks_the_machine_that_answers(cluster: Cluster) -> None:
    cluster.moves = [{"primary": "ams-1", "epoch": 8}]
    ran = cluster.run("promote", "ams-1", "--json", "--yes", machines=("syd-1",))
    document = json.loads(ran.out)
    assert (document.pop("took_ms") >= 0, document) == (True, {"primary": "ams-1", "epoch": 8, "moved": True})
    assert cluster.asked == [("syd-1", api.HandOver("ams-1"))]


def test_promote_refuses_a_name_that_no_answering_machine_has(cluster: Cluster) -> None:
    for machines in ((), ("syd-1",)):
        ran = cluster.run("promote", "ams-9", machines=machines)
        assert ran.code == 2
        assert "no machine that answers is named ams-9, only " in ran.err
        assert "syd-1" in ran.err
    assert cluster.asked == []


def test_without_the_check_promote_sends_an_unknown_name(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promote, "_is_known", lambda *_: True)
    cluster.moves = [{"primary": "syd-1", "epoch": 8}]
    assert cluster.run("promote", "ams-9").code == 3
    assert cluster.asked == [("iad-1", api.HandOver("ams-9"))]


@pytest.mark.parametrize("arguments", [("ams-1",), ("ams-9",), ("--take-over", "--url")])
def test_promote_with_dry_run_changes_nothing(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    url = (cluster.machines["ams-1"].url,) if "--url" in arguments else ()
    ran = cluster.run("promote", *arguments, *url, "--dry-run")
    assert (ran.code, ran.err) == (0, "nothing was changed\n")
    assert arguments[0] in ran.out or "ams-1 takes over from iad-1" in ran.out
    assert cluster.asked == []


def test_a_takeover_without_consent_is_refused(cluster: Cluster) -> None:
    ran = cluster.run("promote", "--take-over", machines=("ams-1",))
    assert ran.code == 2
    assert "--yes" in ran.err
    assert cluster.asked == []


def test_promote_changes_nothing_if_the_machine_is_already_primary(cluster: Cluster) -> None:
    ran = cluster.run("promote", "iad-1")
    assert (ran.code, ran.out) == (0, "iad-1 is already the primary, of epoch 7\n")
    assert cluster.asked == []


def test_promote_names_the_machine_that_took_over_instead(cluster: Cluster) -> None:
    cluster.moves = [{"primary": ""}, {"primary": "syd-1", "region": "syd", "epoch": 8}]
    ran = cluster.run("promote", "nowhere", "--yes")
    assert ran.code == 3
    assert "nowhere is not primary: syd-1 in syd took over, epoch 8" in ran.err
    assert "check with `tkdb status` that nowhere runs" in ran.err


@pytest.mark.parametrize(
    ("move", "expected"),
    [({"primary": ""}, "there is no primary; the next machine"), ({}, "iad-1 in iad is still the primary, epoch 7")],
)
def test_promote_names_the_current_primary_after_its_timeout(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, move: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(promote, "WAIT_MS", 20)
    cluster.moves = [move]
    ran = cluster.run("promote", "ams-1", "--yes", machines=("syd-1",))
    assert ran.code == 3
    assert expected in ran.err


def test_promote_checks_for_the_new_primary_if_the_outcome_is_unknown(cluster: Cluster) -> None:
    def doubtful(call: Any) -> Any:
        answer = cluster.answer("iad-1", call)
        if isinstance(call, api.HandOver):
            raise errors.OutcomeUnknown("the swap was not answered")
        return answer

    cluster.machines["iad-1"].handler = doubtful
    cluster.moves = [{}] * 2 + [{"primary": "ams-1", "epoch": 8}] * 9
    ran = cluster.run("promote", "ams-1")
    assert ran.code == 0
    assert "checking which machine is the primary" in ran.err


def test_a_signer_without_permission_to_promote_is_refused(cluster: Cluster) -> None:
    def refusing(call: Any) -> Any:
        if isinstance(call, api.HandOver | api.TakeOver):
            raise errors.NotPermitted("api may not promote")
        return cluster.answer("iad-1", call)

    cluster.machines["iad-1"].handler = refusing
    for arguments in (["ams-1"], ["--take-over"]):
        ran = cluster.run("promote", *arguments, "--yes", machines=("iad-1",))
        assert (ran.code, ran.out) == (1, "")
        assert "may not promote" in ran.err


def test_a_takeover_asks_only_the_given_machine(cluster: Cluster) -> None:
    ran = cluster.run("promote", "--take-over", "--yes", machines=("ams-1",))
    assert ran.code == 0
    assert ran.out.startswith("ams-1 is primary, of epoch 8, after ")
    assert "no acknowledged write is lost" in ran.err
    assert cluster.asked == [("ams-1", api.TakeOver())]
    assert [type(request.call) for request in cluster.machines["ams-1"].requests] == [api.TakeOver]


@pytest.mark.parametrize("arguments", [[], ["ams-1", "--take-over"], ["--take-over"], ["a b"], ["x" * 65], [""]])
def test_promote_with_invalid_arguments_exits_with_2(cluster: Cluster, arguments: list[str]) -> None:
    ran = cluster.run("promote", *arguments)
    assert ran.code == 2
    assert cluster.asked == []


def test_verify_with_a_stale_authority_exits_with_3_and_prints_no_result(cluster: Cluster) -> None:
    def stale(_call: Any) -> Any:
        raise errors.StaleAuthority("the head was last read 6.1 s ago", hint="ask another region")

    cluster.machines["syd-1"].handler = stale
    token = mint(fake.NAME, b"r" * 32, kid=b"k" * 16, time_ms=1, random=bytes(10), caveats=[Exp(2**40)])
    ran = quick("token", "verify", stdin=token.text, env=cluster.env("syd-1"))
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "error: the head was last read 6.1 s ago\ntry: ask another region\n"
