"""Routing: the nearest machine answers, or the next one if that fails, and no request is sent twice."""

from __future__ import annotations

import threading

from tests.ops.flycast.stand_in import Answer, StandIn
from tests.waiting import until


def test_the_nearest_region_answers(stand_in: StandIn) -> None:
    assert stand_in.ask("sin").machine == "tkdb-syd-1"
    assert stand_in.ask("fra").machine == "tkdb-ams-1"


def test_a_lost_machine_is_replaced_by_the_next_region_until_it_is_back(
    stand_in: StandIn,
) -> None:
    stand_in.do(stand_in.machine("tkdb-syd-1").kill())
    assert (
        stand_in.ask("sin", body=b"a write").machine == "tkdb-ams-1"
    )  # The first request already goes to ams, because nothing was sent to syd.
    stand_in.do(stand_in.machine("tkdb-ams-1").kill())
    assert stand_in.ask("sin").machine == "tkdb-iad-1"
    stand_in.do(stand_in.machine("tkdb-syd-1").start())
    stand_in.until_answered_by("tkdb-syd-1")


def test_without_any_machine_the_proxy_answers_with_an_error(stand_in: StandIn) -> None:
    for machine in stand_in.flycast.machines.values():
        stand_in.do(machine.kill())
    answer = stand_in.ask("sin")
    assert answer.status == 503
    assert answer.headers["fly-proxy-error"].startswith(("PC01", "PC02"))


def test_an_isolated_region_gets_no_requests_until_it_is_healed(stand_in: StandIn) -> None:
    stand_in.do(stand_in.flycast.backbone.isolate("syd"))
    stand_in.until_answered_by("tkdb-ams-1")
    stand_in.do(stand_in.flycast.backbone.heal())
    stand_in.until_answered_by("tkdb-syd-1")


def test_two_regions_with_a_cut_between_them_still_reach_the_others(stand_in: StandIn) -> None:
    stand_in.do(stand_in.flycast.backbone.cut("sin", "syd"))
    stand_in.until_answered_by("tkdb-ams-1")
    assert stand_in.ask("fra", fly_force_region="syd").machine == "tkdb-syd-1"


def test_no_request_fails_when_some_packets_are_lost(stand_in: StandIn) -> None:
    stand_in.do(stand_in.flycast.backbone.loss("sin", "syd", 0.05))
    assert {stand_in.ask("sin", fly_prefer_region="syd").status for _ in range(10)} == {200}


def test_a_request_in_flight_is_never_sent_to_another_machine(stand_in: StandIn) -> None:
    others = ["tkdb-ams-1", "tkdb-iad-1"]
    before = [_request_count(stand_in, name) for name in others]
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(stand_in.ask("sin", body=b"x", x_answer_ms="5000")))
    count_before = _request_count(stand_in, "tkdb-syd-1")
    asking.start()
    until(
        lambda: _request_count(stand_in, "tkdb-syd-1") >= count_before + 2
    )  # The count contains this request and the one in flight.
    stand_in.do(stand_in.machine("tkdb-syd-1").kill())
    asking.join()
    assert answers[0].status == 503
    assert answers[0].headers["fly-proxy-error"].startswith("PC03")
    assert [_request_count(stand_in, name) for name in others] == [count + 1 for count in before]


def test_a_request_over_the_limit_of_a_machine_goes_to_the_next_region(stand_in: StandIn) -> None:
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(stand_in.ask("sin", app="narrow", body=b"x", x_answer_ms="1500"))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.machine for answer in answers) == ["narrow-ams-1", "narrow-syd-1"]


def test_a_503_of_the_app_is_passed_on(stand_in: StandIn) -> None:
    answer = stand_in.ask("sin", body=b"x", x_answer_status="503", x_answer_header="fly-proxy-error: PC01 a lie")
    assert (answer.status, answer.machine) == (503, "tkdb-syd-1")
    assert "fly-proxy-error" not in answer.headers


def test_a_redirect_of_the_app_is_passed_on(stand_in: StandIn) -> None:
    for status in ("301", "302", "303", "307", "308"):
        answer = stand_in.ask("sin", x_answer_status=status, x_answer_header="location: http://elsewhere.example/")
        assert (str(answer.status), answer.headers["location"]) == (status, "http://elsewhere.example/")


def test_a_caller_may_prefer_or_force_regions_and_machines(stand_in: StandIn) -> None:
    assert stand_in.ask("sin", fly_prefer_region="zzz,iad").machine == "tkdb-iad-1"
    assert stand_in.ask("sin", fly_prefer_region="zzz").machine == "tkdb-syd-1"
    assert stand_in.ask("sin", fly_prefer_region="us").machine == "tkdb-iad-1"
    assert stand_in.ask("sin", fly_force_region="iad").machine == "tkdb-iad-1"
    assert stand_in.ask("sin", fly_force_region="zzz").status == 503
    assert stand_in.ask("sin", fly_force_instance_id="tkdb-iad-1").machine == "tkdb-iad-1"
    assert stand_in.ask("sin", fly_force_instance_id="nobody").status == 503
    preferred = stand_in.ask("sin", fly_prefer_instance_id="nobody")
    assert preferred.machine == "tkdb-syd-1"
    assert preferred.request["fly-preferred-instance-unavailable"] == "nobody"


def test_a_request_to_a_lost_preferred_region_goes_to_the_nearest(stand_in: StandIn) -> None:
    stand_in.do(stand_in.machine("tkdb-iad-1").kill())
    assert stand_in.ask("sin", body=b"x", fly_prefer_region="iad").machine == "tkdb-syd-1"


def _request_count(stand_in: StandIn, machine: str) -> int:
    count: int = stand_in.ask("fra", fly_force_instance_id=machine).echoed["request_count"]
    return count
