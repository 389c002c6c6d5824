"""The pure parts: regions, layouts, addresses, the backbone's rules, and the proxy's configuration."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb.errors import ConfigurationError
from tkdb_ops.flycast import proxy_lua, regions
from tkdb_ops.flycast.addresses import Addresses, OnLoopback, Sixpn
from tkdb_ops.flycast.backbone import Rules
from tkdb_ops.flycast.envoy import SPOOFED, configuration
from tkdb_ops.flycast.layout import App, Layout
from tkdb_ops.flycast.site import Site
from tkdb_ops.flycast.worker import Files, site

codes = st.sampled_from(sorted(regions.REGIONS))
LAYOUT = Layout.for_apps(
    App("tkdb", ("iad", "ams", "syd"), per_region=2), App("web", ("syd",), autostop_ms=1000), clients=["sin"]
)


def worker(region: str, addresses: Addresses | None = None) -> Site:
    return site(LAYOUT, addresses or Sixpn(LAYOUT), region, Files(Path("/run/here")))


@given(codes, codes)
def test_a_round_trip_is_the_same_both_ways_and_none_at_home(one: str, other: str) -> None:
    assert regions.round_trip_ms(one, other) == regions.round_trip_ms(other, one)
    assert (regions.round_trip_ms(one, other) == 0) == (one == other)
    assert regions.round_trip_ms(one, other) < 450


def test_estimated_round_trips_are_near_the_measured_ones() -> None:
    ratios = [regions.estimated_ms(*pair) / measured for pair, measured in regions.MEASURED_MS.items()]
    assert all(0.6 < ratio < 1.3 for ratio in ratios)
    assert sum(0.75 < ratio < 1.25 for ratio in ratios) >= 0.75 * len(ratios)


def test_the_nearest_to_singapore_are_sydney_amsterdam_virginia() -> None:
    assert regions.nearest("sin", ("iad", "ams", "syd")) == ("syd", "ams", "iad")


@given(codes, st.lists(codes, unique=True))
def test_every_region_is_nearest_to_itself(origin: str, among: list[str]) -> None:
    order = regions.nearest(origin, [*among, origin])
    assert order[0] == origin
    assert sorted(order) == sorted([*among, origin])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: App("Tkdb", ("iad",)),
        lambda: App("tkdb", ()),
        lambda: App("tkdb", ("iad", "iad")),
        lambda: App("tkdb", ("zzz",)),
        lambda: App("tkdb", ("iad",), check="readyz"),
        lambda: App("tkdb", ("iad",), check='/"]]'),
        lambda: App("tkdb", ("iad",), hard_limit=0),
        lambda: Layout.for_apps(App("tkdb", ("iad",)), App("tkdb", ("syd",))),
        lambda: Layout.for_apps(App("client", ("iad",)), clients=["sin"]),
        lambda: Layout.for_apps(App("tkdb", ("iad",), per_region=1000)),
        lambda: LAYOUT.app("nobody"),
        lambda: LAYOUT.machine("nobody"),
    ],
)
def test_an_invalid_layout_is_refused_with_a_hint(wrong: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wrong()  # type: ignore[operator]
    assert caught.value.hint


@pytest.mark.parametrize("addresses", [Sixpn(LAYOUT), OnLoopback(LAYOUT, 70)])
def test_no_two_parts_of_a_region_share_an_address(addresses: Addresses) -> None:
    for region in LAYOUT.regions:
        here = LAYOUT.in_region(region)
        used = [addresses.edge(region, app.name) for app in LAYOUT.apps]
        used += [addresses.backhaul(one) for one in here] + [addresses.local(one) for one in here]
        assert len(set(used)) == len(used)
    sources = [addresses.source(machine) for machine in LAYOUT.machines]
    assert len(set(sources)) == len(sources)


def test_an_anycast_address_is_the_same_in_every_region() -> None:
    assert len({Sixpn(LAYOUT).edge(region, "tkdb") for region in LAYOUT.regions}) == 1


@given(st.permutations(["iad", "ams", "syd"]), st.floats(0, 1))
def test_a_cut_works_in_both_directions_and_heals(order: list[str], chance: float) -> None:
    one, other, third = order
    rules = Rules(order)
    before = {pair: rules.delay_s(*pair, chance=chance) for pair in permutations(order, 2)}
    rules.carry_out({"do": "cut", "one": one, "other": other})
    assert rules.delay_s(one, other, chance=chance) is rules.delay_s(other, one, chance=chance) is None
    assert rules.delay_s(one, third, chance=chance) == before[one, third]
    rules.carry_out({"do": "isolate", "one": third})
    assert all(rules.delay_s(*pair, chance=chance) is None for pair in permutations(order, 2))
    rules.carry_out({"do": "heal"})
    assert before == {pair: rules.delay_s(*pair, chance=chance) for pair in permutations(order, 2)}


@given(st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_the_share_of_lost_packets_is_as_requested(share: float, chance: float) -> None:
    rules = Rules(["iad", "syd"])
    rules.carry_out({"do": "loss", "one": "syd", "other": "iad", "share": share})
    assert (rules.delay_s("iad", "syd", chance=chance) is None) == (chance < share)


def test_a_packet_takes_half_a_round_trip() -> None:
    rules = Rules(["iad", "syd"])
    assert rules.delay_s("iad", "syd", chance=0.5) == 199 / 2000
    rules.carry_out({"do": "latency", "one": "iad", "other": "syd", "ms": 10})
    assert rules.delay_s("syd", "iad", chance=0.5) == 10 / 2000
    assert rules.delay_s("syd", "nowhere", chance=0.5) is None


@pytest.mark.parametrize("addresses", [Sixpn(LAYOUT), OnLoopback(LAYOUT, 70)])
@pytest.mark.parametrize("region", LAYOUT.regions)
def test_the_proxy_of_a_region_tries_the_nearest_machines_first(addresses: Addresses, region: str) -> None:
    config = configuration(worker(region, addresses))
    json.dumps(config)
    clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
    groups = clusters["app-tkdb"]["load_assignment"]["endpoints"]
    order = [group["locality"]["region"] for group in sorted(groups, key=lambda group: group["priority"])]
    assert order == list(regions.nearest(region, ("iad", "ams", "syd")))
    listeners = {listener["name"] for listener in config["static_resources"]["listeners"]}
    backhauls = {f"backhaul-{machine.id}" for machine in LAYOUT.in_region(region)}
    assert listeners == {"dialler", "edge-tkdb", "edge-web"} | backhauls


def test_every_header_that_the_proxy_adds_is_dropped_from_callers_requests() -> None:
    """A caller could forge a header that the proxy's parts add, if the header isn't in SPOOFED."""
    config = json.dumps(configuration(worker("syd")))
    parts = [config, *(proxy_lua.source(part, worker("syd")) for part in ("attest", "edge", "replay", "dial"))]
    written = set()
    for text in parts:
        words = text.replace("\\", "").replace('"', " ").split()
        written |= {word.lower() for word in words if word.lower().startswith(("fly-", "flycast-"))}
    routing = {"fly-force-region", "fly-prefer-region", "fly-force-instance-id", "fly-prefer-instance-id"}
    only_answers = {"fly-replay", "flycast-refused"}
    assert {name for name in written if name.replace("-", "").isalpha()} - routing - only_answers <= set(SPOOFED)


def test_only_workers_may_use_a_backhaul_if_addresses_identify_them() -> None:
    config = configuration(worker("syd"))
    for listener in config["static_resources"]["listeners"]:
        if listener["name"].startswith("backhaul-"):
            guard = listener["filter_chains"][0]["filters"][0]["typed_config"]["rules"]
            principals = guard["policies"]["workers"]["principals"]
            hosts = {one["direct_remote_ip"]["address_prefix"] for one in principals}
            assert hosts == set(Sixpn(LAYOUT).workers())


def test_only_an_app_that_stops_when_idle_is_woken() -> None:
    config = configuration(worker("syd"))
    for listener in config["static_resources"]["listeners"]:
        if listener["name"].startswith("backhaul-"):
            assert ("/wake/web-syd-1" in json.dumps(listener)) == (listener["name"] == "backhaul-web-syd-1")
