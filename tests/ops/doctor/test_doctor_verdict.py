"""Every check, on facts written by hand: one healthy deployment, and every fault that it can have."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fake_fly
from tkdb import api, errors
from tkdb.net.url import Url
from tkdb_ops.doctor import asking, findings, reach
from tkdb_ops.doctor.asking import Answered, NoAnswer, NoAnswerReason
from tkdb_ops.doctor.configured import RULES
from tkdb_ops.doctor.deployment import Assignments, DeployedMachine, parse_toml
from tkdb_ops.doctor.doctor import Given, gather
from tkdb_ops.doctor.findings import Finding, NotAsked, Outcome, Unlearned, listed
from tkdb_ops.doctor.machines import Dated, SeenMachine, alike
from tkdb_ops.doctor.network import Came, Door, Knock, KnownMachine, app_of
from tkdb_ops.doctor.store import Examined, Location, Readable
from tkdb_ops.doctor.verdict import CHECKS, Evidence, judge
from tkdb_replication.bucket import http
from tkdb_replication.cluster.head_object import Absent as NoHead
from tkdb_replication.cluster.head_object import Damaged, Sound
from tkdb_replication.protocol.head import BEGINNING, NOBODY, first_head

JOURNAL = b"j" * 16
REGIONS = {"148e21": "iad", "3d8d41": "ams", "90801f": "syd"}
TOML = parse_toml(fake_fly.filled(Path(__file__).parents[3].joinpath("fly.toml").read_text()))


def machine(name: str, **fields: Any) -> SeenMachine:
    """Return a healthy machine with some fields changed. 148e21 is the primary."""
    head = api.Cluster(7, 31_044, 1_412, "148e21", "iad", 9_000, 1_200, 100, 5_000)
    role = "primary" if name == "148e21" else "replica"
    report = api.StatusReport(
        name="tkdb.acme.example", version="0.1.0", role=role, region=REGIONS[name], machine=name, uptime_ms=1,
        position=1_412, age_ms=200, cluster=head, time_ms=0, attested=True,
    )  # fmt: skip
    measured = {"journal": JOURNAL, "ahead_ms": 3, "within_ms": 50}
    reported = {field: value for field, value in fields.items() if field not in measured}
    return SeenMachine(name, REGIONS[name], Answered(msgspec.structs.replace(report, **reported), **{**measured, **{
        field: value for field, value in fields.items() if field in measured
    }}))  # fmt: skip


def deployed_machines() -> list[DeployedMachine]:
    raw = [fake_fly.machine(name, region) for name, region in REGIONS.items()]
    for each in raw:
        each["config"]["env"] |= TOML.config.env
    return msgspec.json.decode(json.dumps(raw), type=list[DeployedMachine])


HEAD = msgspec.structs.replace(
    first_head(journal=JOURNAL, attempt=b"a" * 16, owner=NOBODY, base="b", place=BEGINNING, epoch=7), rev=31_050
)
HEALTHY = Evidence(
    doors=[Door("acme-tkdb.flycast", ("fdaa:0:1:0:1::7",))],
    knocks=[Knock(name, "[fdaa:0:1:0:a:0:1:2]:8080", Came.REFUSAL) for name in REGIONS],
    seen=[machine(name) for name in REGIONS],
    assignments=msgspec.json.decode(json.dumps({"ips": [fake_fly.PRIVATE]}), type=Assignments).ips,
    hosted=deployed_machines(),
    written=TOML,
    bucket=Examined(
        fit=None, location=Location("multi", ("usa",)), readable=Readable(), clock=Dated("the bucket", 100, 600),
        head=Sound(HEAD, b"", ""),
    ),
    places=[KnownMachine(name, region) for name, region in REGIONS.items()],
)  # fmt: skip


def failed(facts: Evidence) -> dict[str, str]:
    return {each.check: each.found for each in judge(facts) if each.outcome is Outcome.FAILED}


def find(facts: Evidence, check: str) -> Finding:
    return next(each for each in judge(facts) if each.check == check)


def with_seen(*changed: SeenMachine) -> Evidence:
    """Return the healthy deployment with some machines replaced."""
    by_name = {each.machine: each for each in changed}
    return replace(HEALTHY, seen=[by_name.get(name, machine(name)) for name in REGIONS])


def with_bucket(**fields: Any) -> Evidence:
    return replace(HEALTHY, bucket=replace(HEALTHY.bucket, **fields))


def test_a_healthy_deployment_passes_every_check_in_order() -> None:
    found = judge(HEALTHY)
    assert [(each.check, each.outcome) for each in found] == [(check.id, Outcome.PASSED) for check in CHECKS], failed(
        HEALTHY
    )
    assert all(each.found and not each.fix for each in found)


def cluster(**fields: Any) -> api.Cluster:
    return msgspec.structs.replace(api.Cluster(7, 31_044, 1_412, "148e21", "iad", 9_000, 1_200, 100, 5_000), **fields)


def unanswered(reason: NoAnswerReason, why: str = "so it is") -> SeenMachine:
    return SeenMachine("90801f", "syd", NoAnswer(reason, why))


AHEAD = replace(HEALTHY.bucket, clock=Dated("the bucket", 9_000, 0))
FAULTS: list[tuple[str, Evidence, str]] = [
    (
        "private-address",
        replace(HEALTHY, doors=[Door("tkdb.acme.example", ("10.0.0.1", "137.66.12.10"))]),
        "tkdb.acme.example is 137.66.12.10, which isn't private",
    ),
    (
        "private-address",
        replace(HEALTHY, doors=[Door("acme-tkdb.flycast", ("10.0.0.1",))]),
        "acme-tkdb.flycast is 10.0.0.1, which isn't private",
    ),
    (
        "past-the-proxy",
        replace(HEALTHY, knocks=[Knock("90801f", "[fdaa::1]:8080", Came.ANSWER, "HTTP 403")]),
        "90801f answers at [fdaa::1]:8080, past the proxy (HTTP 403)",
    ),
    ("attested", with_seen(machine("90801f", attested=False)), "90801f in syd answers requests without Fly-Src"),
    ("identity", with_seen(unanswered(NoAnswerReason.IDENTITY)), "90801f in syd: so it is"),
    ("machines-answer", with_seen(unanswered(NoAnswerReason.UNREACHED)), "90801f in syd doesn't answer: so it is"),
    ("machines-answer", with_seen(machine("90801f", fault="stale")), "90801f in syd can't serve: stale"),
    ("machines-answer", replace(HEALTHY, seen=[]), "the app has no machine"),
    (
        "regions",
        replace(HEALTHY, places=[KnownMachine("a", "iad"), KnownMachine("b", "iad")]),
        "all machines are in iad",
    ),
    ("regions", replace(HEALTHY, places=[]), "there is no machine"),
    (
        "one-cluster",
        with_seen(machine("90801f", journal=b"k" * 16)),
        "there are several journals: 6a6a6a6a… on 148e21 in iad",
    ),
    ("one-cluster", with_seen(machine("90801f", cluster=None)), "90801f in syd runs alone, without a bucket"),
    ("one-cluster", with_seen(machine("90801f", role="primary")), "148e21 and 90801f are all primary"),
    (
        "one-cluster",
        with_seen(machine("90801f", cluster=cluster(primary="90801f"))),
        "in epoch 7, some follow 148e21 and some 90801f",
    ),
    (
        "one-cluster",
        replace(HEALTHY, seen=[machine(name, role="replica", cluster=cluster(primary="")) for name in REGIONS]),
        "no machine is primary",
    ),
    (
        "one-cluster",
        replace(HEALTHY, seen=[machine(name, cluster=cluster(read_ms=42_000)) for name in REGIONS]),
        "the primary is unknown: no machine has read the head for 42.0 s",
    ),
    (
        "one-cluster",
        replace(HEALTHY, seen=[machine(name, cluster=cluster(unchanged_ms=9_001)) for name in REGIONS]),
        "the primary 148e21 hasn't changed the head for 9.0 s",
    ),
    ("one-version", with_seen(machine("90801f", version="0.0.9")), "tkdb 0.0.9 on 90801f in syd"),
    (
        "clocks",
        with_seen(machine("90801f", ahead_ms=-2_051)),
        "the clock of 90801f in syd is 2.1 s behind this caller's",
    ),
    ("clocks", with_bucket(clock=Dated("the bucket", 2_601, 600)), "the clock of the bucket is 2.6 s ahead of"),
    (
        "clocks",
        replace(with_seen(*(machine(name, ahead_ms=9_000) for name in REGIONS)), bucket=AHEAD),
        "all clocks differ from this caller's",
    ),
    ("bucket-fit", with_bucket(fit=errors.UnfitObjectStore("it isn't", hint="another")), "it isn't"),
    ("bucket-strong", with_bucket(location=Location("global")), "it is Global: eventual across regions"),
    ("bucket-strong", with_bucket(location=Location("dual", ("iad", "fra"))), "it is Dual-region (iad, fra)"),
    (
        "bucket-outlives",
        replace(
            with_bucket(location=Location("single", ("iad",))),
            places=[KnownMachine("a", "iad"), KnownMachine("b", "iad")],
        ),
        "it is in iad, and so are all machines",
    ),
    ("bucket-closed", with_bucket(readable=Readable(("the head",))), "the head can be read without a key"),
    ("bucket-head", with_bucket(head=NoHead()), "there is no head in the bucket"),
    ("bucket-head", with_bucket(head=Damaged(errors.BrokenHead("altered", hint="see"), b"", "")), "altered"),
    (
        "bucket-head",
        with_seen(machine("90801f", journal=b"k" * 16)),
        "90801f in syd follows journal 6b6b6b6b…, not 6a6a6a6a…",
    ),
    (
        "bucket-head",
        with_seen(machine("90801f", cluster=cluster(rev=31_051))),
        "90801f in syd has seen head 31051, but the bucket's is 31050",
    ),
]


@pytest.mark.parametrize(
    ("check", "facts", "found"), FAULTS, ids=[f"{check}-{n}" for n, (check, *_) in enumerate(FAULTS)]
)
def test_each_fault_fails_its_check_with_a_finding_and_a_fix(check: str, facts: Evidence, found: str) -> None:
    finding = find(facts, check)
    assert finding.outcome is Outcome.FAILED
    assert found in finding.found
    assert finding.fix


def test_every_check_of_the_network_the_machines_and_the_bucket_has_a_fault_here() -> None:
    tested_elsewhere = {"no-public-address", "hosted", "alike"}  # These need Fly's API: see test_doctor_fly.py.
    of_files = {check.id for check in RULES}
    assert {check for check, *_ in FAULTS} | of_files | tested_elsewhere == {check.id for check in CHECKS}


@pytest.mark.parametrize(("absent", "expected"), [(NotAsked("no"), Outcome.SKIPPED), (Unlearned("?"), Outcome.UNKNOWN)])
def test_without_facts_nothing_passes_and_nothing_fails(absent: findings.Absent, expected: Outcome) -> None:
    nothing = Evidence(absent, absent, absent, absent, absent, absent, Examined.absent(absent), absent)
    assert {(each.outcome, each.found) for each in judge(nothing)} == {(expected, absent.why)}


def test_machines_without_a_status_report_leave_checks_unknown() -> None:
    for reason in (NoAnswerReason.UNREACHED, NoAnswerReason.REFUSED):
        facts = replace(
            HEALTHY, seen=[SeenMachine("90801f", "syd", NoAnswer(reason, "so it is"))], hosted=NotAsked("no")
        )
        facts = replace(facts, written=NotAsked("no"))
        unknown = {each.check for each in judge(facts) if each.outcome is Outcome.UNKNOWN}
        assert {"identity", "attested", "one-cluster", "one-version"} <= unknown


def test_without_a_refusal_past_the_proxy_the_result_is_unknown() -> None:
    knocks = [*HEALTHY.knocks, Knock("90801f", "[fdaa::1]:8080", Came.NOTHING)]  # type: ignore[misc]  the knocks are a list here
    assert find(replace(HEALTHY, knocks=knocks), "past-the-proxy").outcome is Outcome.UNKNOWN
    assert find(replace(HEALTHY, knocks=[]), "past-the-proxy").outcome is Outcome.UNKNOWN


def test_a_single_machine_passes_as_a_cluster_of_one() -> None:
    alone = replace(HEALTHY, seen=[machine("148e21", cluster=None)])
    assert find(alone, "one-cluster").found == "148e21 in iad is the only machine, without a bucket"


def test_a_missing_variable_passes_if_machines_report_attestation() -> None:
    config = msgspec.structs.replace(TOML.config, env={"TKDB_DB": "/data/tkdb.db"})
    without = replace(HEALTHY, written=replace(TOML, config=config), hosted=NotAsked("no"))
    assert find(without, "attested").outcome is Outcome.PASSED
    assert find(replace(without, seen=NotAsked("no")), "attested").outcome is Outcome.FAILED
    off = msgspec.structs.replace(TOML.config, env={"TKDB_DB": "/data/tkdb.db", "TKDB_FLY_SRC": "off"})
    finding = find(replace(without, written=replace(TOML, config=off)), "attested")
    assert finding.found == "fly.toml: TKDB_FLY_SRC=off"  # The next deploy would switch attestation off.


def test_a_single_region_bucket_away_from_the_machines_passes_with_a_warning() -> None:
    finding = find(with_bucket(location=Location("single", ("iad",))), "bucket-outlives")
    assert (finding.outcome, "acknowledged writes are lost with that region" in finding.found) == (
        Outcome.PASSED,
        True,
    )


def test_machines_that_disagree_during_a_change_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "AGAIN_S", 0)
    moving = machine("90801f", role="primary", cluster=cluster(epoch=8, primary="90801f"))
    settled = [
        machine(name, role="primary" if name == "90801f" else "replica", cluster=cluster(epoch=8, primary="90801f"))
        for name in REGIONS
    ]
    assert not alike([machine("148e21"), moving])
    assert alike(settled)
    answers = {"148e21": [machine("148e21"), settled[0]], "90801f": [moving, settled[2]]}

    class Asker:
        async def ask(self, url: Url, headers: dict[str, str], *, timeout_ms: int) -> Answered | NoAnswer:
            return answers[headers["fly-force-instance-id"]].pop(0).came

    places = [KnownMachine("148e21", "iad"), KnownMachine("90801f", "syd")]
    asker: Any = Asker()
    found = asyncio.run(reach.survey(asker, [Url.parse("http://acme-tkdb.flycast")], places))
    assert found == [settled[0], settled[2]]


def test_a_machine_that_does_not_answer_is_asked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "AGAIN_S", 0)
    lost = NoAnswer(
        NoAnswerReason.UNREACHED, "a plain HTTP 503: PC03 the connection ended while the request was in flight"
    )
    came = {
        "148e21": [machine("148e21").came] * 2,
        "90801f": [lost, machine("90801f").came],
        "3d8d41": [lost, lost],
    }

    class Asker:
        async def ask(self, url: Url, headers: dict[str, str], *, timeout_ms: int) -> Answered | NoAnswer:
            return came[headers["fly-force-instance-id"]].pop(0)

    asker: Any = Asker()
    places = [KnownMachine(name, REGIONS[name]) for name in came]
    found = asyncio.run(reach.survey(asker, [Url.parse("http://acme-tkdb.flycast")], places))
    assert [type(each.came) for each in found] == [Answered, Answered, NoAnswer]


def test_an_answer_of_another_machine_counts_as_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "AGAIN_S", 0)

    class Asker:
        async def ask(self, url: Url, headers: dict[str, str], *, timeout_ms: int) -> Answered | NoAnswer:
            return machine("148e21").came

    asker: Any = Asker()
    places = [KnownMachine("148e21", "iad"), KnownMachine("90801f", "syd")]
    found = asyncio.run(reach.survey(asker, [Url.parse("http://acme-tkdb.flycast")], places))
    finding = find(replace(HEALTHY, seen=found), "machines-answer")
    assert finding.found == "90801f in syd doesn't answer: the answer is from a machine with the name 148e21"


@pytest.mark.parametrize(
    ("host", "app"),
    [("tkdb.flycast", "tkdb"), ("tkdb.flycast.", "tkdb"), ("api.svc.tkdb.flycast", "tkdb"), ("tkdb.internal", None),
     ("flycast", None), (".flycast", None), ("10.0.0.1", None)],
)  # fmt: skip
def test_the_app_is_read_from_the_flycast_name(host: str, app: str | None) -> None:
    assert app_of(host) == app


@given(st.binary(max_size=200), st.sampled_from([200, 302, 400, 403, 404, 500, 502]))
def test_any_plain_http_answer_is_no_answer_of_the_authority(body: bytes, status: int) -> None:
    response = http.Response(status, {"fly-proxy-error": "PC01"}, body)
    assert isinstance(asking._plain(response), NoAnswer)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_no_text_of_the_resolver_raises_an_error(texts: list[str]) -> None:
    assert all(isinstance(place, KnownMachine) for place in reach.read_places(texts))


def test_names_are_listed_with_commas_and_a_final_and() -> None:
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "none",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_checks_have_unique_names_and_titles() -> None:
    assert len({check.id for check in CHECKS}) == len({check.title for check in CHECKS}) == len(CHECKS)


def gather_evidence(given: Given) -> Evidence:
    return asyncio.run(gather(given, now_ms=lambda: 0, random_bytes=bytes))


def test_without_a_token_a_public_address_is_found_by_the_apps_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"acme-tkdb.flycast": ("fdaa:0:1:0:1::7",), "acme-tkdb.fly.dev": ("66.241.125.9", "fdaa:0:1:0:1::7")}

    async def look_up(url: Url) -> Door | Unlearned:
        return Door(url.host, names[url.host]) if url.host in names else Unlearned("unknown")

    async def no_resolver(app: str) -> Unlearned:
        return Unlearned("no resolver")

    monkeypatch.setattr(reach, "look_up", look_up)
    monkeypatch.setattr(reach, "places", no_resolver)
    given = Given(urls=(Url.parse("http://acme-tkdb.flycast"),))
    finding = find(gather_evidence(given), "no-public-address")
    assert (finding.outcome, finding.found) == (Outcome.FAILED, "66.241.125.9 is public")
    names["acme-tkdb.fly.dev"] = ()
    finding = find(gather_evidence(given), "no-public-address")  # The absence of a public name proves nothing.
    assert (finding.outcome, finding.found) == (Outcome.SKIPPED, "FLY_API_TOKEN isn't set")
