"""``tkdb regions``, and other commands with several URLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from tests.cli.processes import CommandResult, quick
from tests.client import fake_authority as fake
from tests.client.fake_authority import Brain, FakeAuthority
from tkdb import api

UNREACHABLE = "http://127.0.0.1:9"


class Regions:
    """Regions of one authority. Each is 200 ms further away than the previous one."""

    def __init__(self, stack: ExitStack, *names: str) -> None:
        brain = Brain()
        self.machines = {
            name: stack.enter_context(FakeAuthority(secrets=brain.secrets, signer=brain.signer)) for name in names
        }
        for distance, (name, machine) in enumerate(self.machines.items()):
            machine.delay_s = 0.2 * distance
            self.set_report(name, role="primary" if name == names[-1] else "replica")

    def set_report(self, name: str, **fields: object) -> None:
        changed = {"machine": f"m-{name}", "region": name, "position": 1412, "age_ms": 200} | fields
        report = msgspec.structs.replace(fake.report(), **changed)
        self.machines[name].handler = lambda call: (
            report if isinstance(call, api.Status) else api.Organizations([], False)
        )

    def run(self, *arguments: str, urls: list[str]) -> CommandResult:
        one = next(iter(self.machines.values()))
        known = {"TKDB_AUTHORITY": one.identity.text(), "TKDB_SIGNER": one.signer.text()}
        return quick(*arguments, env=known | {"TKDB_URL": ",".join(urls)})

    def urls(self, *names: str) -> list[str]:
        return [self.machines[name].url for name in names]


@pytest.fixture
def regions() -> Iterator[Regions]:
    with ExitStack() as stack:
        yield Regions(stack, "syd", "ams", "iad")


def test_regions_lists_the_nearest_region_first_and_marks_the_serving_one(regions: Regions) -> None:
    ran = regions.run("regions", urls=[*regions.urls("iad", "syd", "ams"), UNREACHABLE])
    assert (ran.code, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["REGION", "MACHINE", "RTT", "ROLE", "SEQ", "FRESH", "HEALTH"]
    assert [row.split()[:2] for row in rows[:3]] == [["syd", "m-syd"], ["ams", "m-ams"], ["iad", "m-iad"]]
    assert [row.endswith("← serving you") for row in rows] == [True, False, False, False, False]
    assert [row.split()[4:] for row in rows[1:3]] == [
        ["replica", "1412", "0.2", "s", "ok"],
        ["primary", "1412", "0.2", "s", "ok"],
    ]
    assert rows[3].split() == [UNREACHABLE, "unreachable"]
    assert "couldn't be connected to" in rows[4]


def test_regions_as_json_contains_every_field(regions: Regions) -> None:
    regions.set_report("ams", fault="the head was last read 6.1 s ago", age_ms=None)
    ran = regions.run("regions", "--json", urls=regions.urls("syd", "ams"))
    document = json.loads(ran.out)
    assert document["ok"] is True
    first, second = document["regions"]
    assert first.pop("rtt_ms") > 0
    assert first == {
        "url": regions.machines["syd"].url,
        "region": "syd",
        "machine": "m-syd",
        "role": "replica",
        "seq": 1412,
        "age_ms": 200,
        "fault": "",
        "serving": True,
    }
    assert (second["fault"], second["age_ms"], second["serving"]) == ("the head was last read 6.1 s ago", None, False)


def test_regions_exits_with_3_if_no_region_can_answer_calls(regions: Regions) -> None:
    regions.set_report("syd", fault="the head is broken")
    ran = regions.run("regions", urls=[*regions.urls("syd"), UNREACHABLE])
    assert ran.code == 3
    assert "serving you" not in ran.out
    assert "m-syd" in ran.out.splitlines()[-2]


def test_regions_with_one_url_shows_the_region_that_answers(regions: Regions) -> None:
    ran = quick(
        "regions", "--url", *regions.urls("ams"), env={"TKDB_AUTHORITY": regions.machines["ams"].identity.text()}
    )
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["REGION", "ams"]


@pytest.mark.parametrize("unreachable_index", [0, 1])
def test_a_command_with_several_urls_uses_a_reachable_one(regions: Regions, unreachable_index: int) -> None:
    urls = regions.urls("iad")
    urls.insert(unreachable_index, UNREACHABLE)
    assert regions.run("org", "list", urls=urls).code == 0


@pytest.mark.parametrize("command", [("regions",), ("status",), ("promote", "m-1"), ("org", "list")])
@pytest.mark.parametrize(
    "url", ["", " , ", "tkdb.flycast", "http://a,ftp://b", ",".join(f"http://a{n}" for n in range(65))]
)
def test_unusable_urls_exit_with_2(regions: Regions, command: tuple[str, ...], url: str) -> None:
    ran = regions.run(*command, urls=[url])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
