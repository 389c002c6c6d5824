"""A fleet's file: what it describes, and what is said of one that describes none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.processes import quick
from tkdb.errors import ConfigurationError
from tkdb_ops.flycast.envoy import configuration
from tkdb_ops.flycast.fleet import MACHINES_MAX, Fleet

LISTEN = 'listen = "127.0.0.1:7070"\n'
FRA = '[[region]]\nname = "fra"\nmachines = { m1 = "10.1.0.1:8080" }\n'
SYD = '[[region]]\nname = "syd"\nmachines = { m2 = "10.2.0.1:8080" }\n'
EAST = '[[region]]\nname = "east"\nmachines = { m3 = "10.3.0.1:8080" }\n'


def crowd(number: int) -> str:
    """One of many regions."""
    place = f"10.0.{number // 250}.{number % 250}:1"
    return f'[[region]]\nname = "r{number}"\nmachines = {{ m{number} = "{place}" }}\nnearest = []\n'


def order(text: str, region: str) -> list[str]:
    """The machines, in the order in which a proxy in ``region`` asks them."""
    return [machine.id for machine in Fleet.parse(text).site(region).doors[0].machines]


def test_regions_of_flys_are_ordered_by_their_distance() -> None:
    callers = '[[region]]\nname = "sin"\n'
    text = LISTEN + FRA + SYD + callers
    assert (order(text, "sin"), order(text, "fra")) == (["m2", "m1"], ["m1", "m2"])


def test_other_regions_are_ordered_as_the_file_says_their_own_first() -> None:
    text = LISTEN + FRA + 'nearest = ["east", "syd"]\n' + SYD + 'nearest = ["fra", "east"]\n'
    text += EAST + 'nearest = ["syd", "fra"]\n'
    assert order(text, "fra") == ["m1", "m3", "m2"]
    assert order(text, "east") == ["m3", "m2", "m1"]


def test_two_regions_need_no_order() -> None:
    assert order(LISTEN + FRA + EAST, "east") == ["m3", "m1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen = ", "the fleet can't be read: "),
        (FRA, "missing required field `listen`"),
        (LISTEN, "missing required field `region`"),
        (LISTEN + "lisen = 1\n" + FRA, "unknown field `lisen`"),
        (LISTEN + "limit = 0\n" + FRA, "`int` >= 1 - at `$.limit`"),
        (LISTEN + 'check = "/%"\n' + FRA, "at `$.check`"),
        (LISTEN + '[[region]]\nname = "fra"\n', "the fleet has no machines"),
        (LISTEN + FRA + FRA, "there are two of the region 'fra'"),
        (LISTEN + FRA.replace("fra", "any"), "a region has the name 'any'"),
        (LISTEN + FRA.replace("fra", "a b"), "at `$.region[0].name`"),
        (LISTEN + FRA + SYD.replace("m2", "m1"), "there are two of the machine 'm1'"),
        (LISTEN + FRA + SYD.replace("10.2.0.1", "10.1.0.1"), "there are two of the address '10.1.0.1:8080'"),
        (LISTEN + FRA.replace("10.1.0.1", "fra.example"), "machine 'm1' is 'fra.example:8080': an address and a port"),
        (LISTEN + FRA.replace("8080", "0"), "machine 'm1' is '10.1.0.1:0', without a port"),
        (LISTEN + FRA.replace("10.1.0.1:8080", "[::]:8080"), "machine 'm1' is '[::]:8080', which isn't a host's"),
        ('listen = "here"\n' + FRA, "listen is 'here': an address and a port are expected"),
        (LISTEN + 'admin = "10.0.0.1:9901"\n' + FRA, "admin is 10.0.0.1:9901, which other hosts can reach"),
        (LISTEN + FRA + SYD + EAST, "the distances from region 'fra' aren't known"),
        (LISTEN + FRA + 'nearest = ["nyc"]\n' + SYD, "nearest of the region 'fra' is [\"nyc\"]"),
        (LISTEN + FRA + 'nearest = ["syd", "syd"]\n' + SYD, "two of the region nearest to 'fra' 'syd'"),
        (LISTEN + "a = " + "[" * 5_000, "it is nested too deeply"),
        (LISTEN + "".join(map(crowd, range(MACHINES_MAX + 1))), "257 machines are too many"),
    ],
)  # fmt: skip
def test_what_describes_no_fleet_is_refused_and_it_is_said_why(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Fleet.parse(text)
    assert says in caught.value.message
    assert caught.value.hint


@given(st.text(max_size=60) | st.sampled_from([LISTEN, FRA, SYD, EAST, "nearest = ", "[[", '"', "{"]))
def test_whatever_stands_in_the_file_there_is_one_kind_of_error(text: str) -> None:
    for whole in (text, LISTEN + text, LISTEN + FRA + text, LISTEN + FRA.replace("10.1.0.1", text)):
        try:
            Fleet.parse(whole)
        except ConfigurationError as error:
            assert error.message  # noqa: PT017  it may be a fleet, too


@given(st.lists(st.ip_addresses(), min_size=1, max_size=3, unique=True), st.integers(1, 65_535))
def test_any_host_can_be_named_by_its_address(hosts: list[object], port: int) -> None:
    named = [f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}" for host in hosts]
    machines = ", ".join(f'm{place} = "{host}"' for place, host in enumerate(named))
    try:
        fleet = Fleet.parse(f'{LISTEN}[[region]]\nname = "fra"\nmachines = {{ {machines} }}\n')
    except ConfigurationError as error:
        assert "which isn't a host's" in error.message  # noqa: PT017  0.0.0.0 and :: aren't any
        return
    made = json.dumps(configuration(fleet.site("fra")))
    assert all(f'"address": "{host}"' in made for host in hosts)


@pytest.mark.parametrize("region", ["fra", "syd", "sin"])
def test_envoy_takes_what_is_printed(envoy: str, tmp_path: Path, region: str) -> None:
    fleet, made = tmp_path / "fleet.toml", tmp_path / "envoy.json"
    callers = '[[region]]\nname = "sin"\n'
    fleet.write_text(LISTEN + 'admin = "[::1]:9901"\n' + FRA + SYD.replace("10.2.0.1", "[2001:db8::1]") + callers)
    ran = quick("flycast", "config", str(fleet), "--region", region)
    assert (ran.code, ran.err) == (0, "")
    made.write_text(ran.out)
    done = subprocess.run([envoy, "--mode", "validate", "-c", str(made)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_one_document_for_programs_and_a_missing_region_is_a_usage_error(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(LISTEN + FRA)
    shown, raw = (quick("flycast", "config", str(fleet), "--region", "fra", *more) for more in ([], ["--json"]))
    assert json.loads(shown.out) == json.loads(raw.out)
    wrong = quick("flycast", "config", str(fleet), "--region", "ams")
    assert (wrong.code, wrong.out) == (2, "")
    assert "it has fra" in wrong.err
    assert quick("flycast", "config", str(tmp_path / "none"), "--region", "fra").code == 2
    assert quick("flycast", "config", "-", "--region", "fra", stdin=LISTEN + FRA).out == shown.out
