"""A fleet's file: the order of machines that it gives, and the errors of an invalid file."""

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


def numbered_region(number: int) -> str:
    """Return the lines of one region with one machine."""
    address = f"10.0.{number // 250}.{number % 250}:1"
    return f'[[region]]\nname = "r{number}"\nmachines = {{ m{number} = "{address}" }}\nnearest = []\n'


def order(text: str, region: str) -> list[str]:
    """Return the machines in the order in which a proxy in ``region`` tries them."""
    return [machine.id for machine in Fleet.parse(text).site(region).doors[0].machines]


def test_regions_of_fly_are_ordered_by_their_distance() -> None:
    callers = '[[region]]\nname = "sin"\n'
    text = LISTEN + FRA + SYD + callers
    assert (order(text, "sin"), order(text, "fra")) == (["m2", "m1"], ["m1", "m2"])


def test_other_regions_have_the_order_of_the_file_after_their_own_machines() -> None:
    text = LISTEN + FRA + 'nearest = ["east", "syd"]\n' + SYD + 'nearest = ["fra", "east"]\n'
    text += EAST + 'nearest = ["syd", "fra"]\n'
    assert order(text, "fra") == ["m1", "m3", "m2"]
    assert order(text, "east") == ["m3", "m2", "m1"]


def test_two_regions_need_no_order() -> None:
    assert order(LISTEN + FRA + EAST, "east") == ["m3", "m1"]


@pytest.mark.parametrize(
    ("text", "message"),
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
        (LISTEN + "".join(map(numbered_region, range(MACHINES_MAX + 1))), "257 machines are too many"),
    ],
)  # fmt: skip
def test_an_invalid_fleet_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Fleet.parse(text)
    assert message in caught.value.message
    assert caught.value.hint


@given(st.text(max_size=60) | st.sampled_from([LISTEN, FRA, SYD, EAST, "nearest = ", "[[", '"', "{"]))
def test_any_text_raises_only_configuration_errors(text: str) -> None:
    for whole in (text, LISTEN + text, LISTEN + FRA + text, LISTEN + FRA.replace("10.1.0.1", text)):
        try:
            Fleet.parse(whole)
        except ConfigurationError as error:
            assert error.message  # noqa: PT017  the text may also be a valid fleet


@given(st.lists(st.ip_addresses(), min_size=1, max_size=3, unique=True), st.integers(1, 65_535))
def test_any_host_can_be_named_by_its_address(hosts: list[object], port: int) -> None:
    named = [f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}" for host in hosts]
    machines = ", ".join(f'm{number} = "{host}"' for number, host in enumerate(named))
    try:
        fleet = Fleet.parse(f'{LISTEN}[[region]]\nname = "fra"\nmachines = {{ {machines} }}\n')
    except ConfigurationError as error:
        assert "which isn't a host's" in error.message  # noqa: PT017  0.0.0.0 and :: aren't addresses of a host
        return
    config = json.dumps(configuration(fleet.site("fra")))
    assert all(f'"address": "{host}"' in config for host in hosts)


@pytest.mark.parametrize("region", ["fra", "syd", "sin"])
def test_envoy_accepts_the_printed_configuration(envoy: str, tmp_path: Path, region: str) -> None:
    fleet, config = tmp_path / "fleet.toml", tmp_path / "envoy.json"
    callers = '[[region]]\nname = "sin"\n'
    fleet.write_text(LISTEN + 'admin = "[::1]:9901"\n' + FRA + SYD.replace("10.2.0.1", "[2001:db8::1]") + callers)
    ran = quick("flycast", "config", str(fleet), "--region", region)
    assert (ran.code, ran.err) == (0, "")
    config.write_text(ran.out)
    done = subprocess.run(
        [envoy, "--mode", "validate", "-c", str(config)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_config_prints_one_document_and_refuses_a_missing_region(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(LISTEN + FRA)
    shown, raw = (quick("flycast", "config", str(fleet), "--region", "fra", *more) for more in ([], ["--json"]))
    assert json.loads(shown.out) == json.loads(raw.out)
    wrong = quick("flycast", "config", str(fleet), "--region", "ams")
    assert (wrong.code, wrong.out) == (2, "")
    assert "it has fra" in wrong.err
    assert quick("flycast", "config", str(tmp_path / "none"), "--region", "fra").code == 2
    assert quick("flycast", "config", "-", "--region", "fra", stdin=LISTEN + FRA).out == shown.out
