"""``tkdb regions``, and other commands given several URLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from tests.cli.processes import Ran, quick
from tests.client import fake_authority as fake
from tests.client.fake_authority import Brain, FakeAuthority
from tkdb import api

NOBODY = "http://127.0.0.1:9"


class Map:
    """Regions of one authority, each a little further than the one before."""

    def __init__(self, stack: ExitStack, *names: str) -> None:
        brain = Brain()
        self.machines = {
            name: stack.enter_context(FakeAuthority(secrets=brain.secrets, signer=brain.signer)) for name in names
        }
        for distance, (name, machine) in enumerate(self.machines.items()):
            machine.delay_s = 0.2 * distance
            self.say(name, role="primary" if name == names[-1] else "replica")

    def say(self, name: str, **fields: object) -> None:
        told = {"machine": f"m-{name}", "region": name, "position": 1412, "age_ms": 200} | fields
        report = msgspec.structs.replace(fake.report(), **told)
        self.machines[name].handler = lambda call: (
            report if isinstance(call, api.Status) else api.Organizations([], False)
        )

    def run(self, *arguments: str, urls: list[str]) -> Ran:
        one = next(iter(self.machines.values()))
        known = {"TKDB_AUTHORITY": one.identity.text(), "TKDB_SIGNER": one.signer.text()}
        return quick(*arguments, env=known | {"TKDB_URL": ",".join(urls)})

    def urls(self, *names: str) -> list[str]:
        return [self.machines[name].url for name in names]


@pytest.fixture
def world() -> Iterator[Map]:
    with ExitStack() as stack:
        yield Map(stack, "syd", "ams", "iad")


def test_regions_are_shown_nearest_first_with_the_one_that_serves(world: Map) -> None:
    ran = world.run("regions", urls=[*world.urls("iad", "syd", "ams"), NOBODY])
    assert (ran.code, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["REGION", "MACHINE", "RTT", "ROLE", "SEQ", "FRESH", "HEALTH"]
    assert [row.split()[:2] for row in rows[:3]] == [["syd", "m-syd"], ["ams", "m-ams"], ["iad", "m-iad"]]
    assert [row.endswith("← serving you") for row in rows] == [True, False, False, False, False]
    assert [row.split()[4:] for row in rows[1:3]] == [
        ["replica", "1412", "0.2", "s", "ok"],
        ["primary", "1412", "0.2", "s", "ok"],
    ]
    assert rows[3].split() == [NOBODY, "unreachable"]
    assert "couldn't be connected to" in rows[4]


def test_as_json_each_region_is_whole(world: Map) -> None:
    world.say("ams", fault="the head was last read 6.1 s ago", age_ms=None)
    ran = world.run("regions", "--json", urls=world.urls("syd", "ams"))
    document = json.loads(ran.out)
    assert document["ok"] is True
    first, second = document["regions"]
    assert first.pop("rtt_ms") > 0
    assert first == {
        "url": world.machines["syd"].url,
        "region": "syd",
        "machine": "m-syd",
        "role": "replica",
        "seq": 1412,
        "age_ms": 200,
        "fault": "",
        "serving": True,
    }
    assert (second["fault"], second["age_ms"], second["serving"]) == ("the head was last read 6.1 s ago", None, False)


def test_where_none_can_answer_calls_it_is_exit_3(world: Map) -> None:
    world.say("syd", fault="the head is broken")
    ran = world.run("regions", urls=[*world.urls("syd"), NOBODY])
    assert ran.code == 3
    assert "serving you" not in ran.out
    assert "m-syd" in ran.out.splitlines()[-2]


def test_behind_one_url_whoever_answers_is_the_region(world: Map) -> None:
    ran = quick("regions", "--url", *world.urls("ams"), env={"TKDB_AUTHORITY": world.machines["ams"].identity.text()})
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["REGION", "ams"]


@pytest.mark.parametrize("nobodys_place", [0, 1])
def test_every_command_takes_several_urls(world: Map, nobodys_place: int) -> None:
    urls = world.urls("iad")
    urls.insert(nobodys_place, NOBODY)
    assert world.run("org", "list", urls=urls).code == 0


@pytest.mark.parametrize("command", [("regions",), ("status",), ("promote", "m-1"), ("org", "list")])
@pytest.mark.parametrize(
    "url", ["", " , ", "tkdb.flycast", "http://a,ftp://b", ",".join(f"http://a{n}" for n in range(65))]
)
def test_urls_that_cannot_be_used_are_the_callers_fault(world: Map, command: tuple[str, ...], url: str) -> None:
    ran = world.run(*command, urls=[url])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
