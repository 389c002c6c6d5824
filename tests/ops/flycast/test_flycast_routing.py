"""Which machine answers: the nearest, or the next when that can't; and never two for one request."""

from __future__ import annotations

import threading

from tests.ops.flycast.standing import Answer, Standing
from tests.waiting import until


def test_the_nearest_region_answers(standing: Standing) -> None:
    assert standing.ask("sin").machine == "tkdb-syd-1"
    assert standing.ask("fra").machine == "tkdb-ams-1"


def test_when_the_nearest_machine_is_lost_the_next_region_answers_and_the_first_again_once_it_is_back(
    standing: Standing,
) -> None:
    standing.do(standing.machine("tkdb-syd-1").kill())
    assert standing.ask("sin", body=b"a write").machine == "tkdb-ams-1"  # at once: nothing was sent to syd
    standing.do(standing.machine("tkdb-ams-1").kill())
    assert standing.ask("sin").machine == "tkdb-iad-1"
    standing.do(standing.machine("tkdb-syd-1").start())
    standing.until_answered_by("tkdb-syd-1")


def test_with_every_machine_lost_the_proxy_says_so(standing: Standing) -> None:
    for machine in standing.flycast.machines.values():
        standing.do(machine.kill())
    answer = standing.ask("sin")
    assert answer.status == 503
    assert answer.headers["fly-proxy-error"].startswith(("PC01", "PC02"))


def test_an_isolated_region_is_passed_over_until_it_is_healed(standing: Standing) -> None:
    standing.do(standing.flycast.backbone.isolate("syd"))
    standing.until_answered_by("tkdb-ams-1")
    standing.do(standing.flycast.backbone.heal())
    standing.until_answered_by("tkdb-syd-1")


def test_a_cut_between_two_regions_leaves_both_to_the_others(standing: Standing) -> None:
    standing.do(standing.flycast.backbone.cut("sin", "syd"))
    standing.until_answered_by("tkdb-ams-1")
    assert standing.ask("fra", fly_force_region="syd").machine == "tkdb-syd-1"


def test_packets_that_are_lost_now_and_then_are_sent_again(standing: Standing) -> None:
    standing.do(standing.flycast.backbone.loss("sin", "syd", 0.05))
    assert {standing.ask("sin", fly_prefer_region="syd").status for _ in range(10)} == {200}


def test_a_request_in_flight_is_never_sent_to_another_machine(standing: Standing) -> None:
    others = ["tkdb-ams-1", "tkdb-iad-1"]
    before = [_asked(standing, name) for name in others]
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(standing.ask("sin", body=b"x", x_answer_ms="5000")))
    asked = _asked(standing, "tkdb-syd-1")
    asking.start()
    until(lambda: _asked(standing, "tkdb-syd-1") >= asked + 2)  # this question, and the one in flight
    standing.do(standing.machine("tkdb-syd-1").kill())
    asking.join()
    assert answers[0].status == 503
    assert answers[0].headers["fly-proxy-error"].startswith("PC03")
    assert [_asked(standing, name) for name in others] == [count + 1 for count in before]


def test_a_machine_at_its_limit_is_passed_over_for_the_next_region(standing: Standing) -> None:
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(standing.ask("sin", app="narrow", body=b"x", x_answer_ms="1500"))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.machine for answer in answers) == ["narrow-ams-1", "narrow-syd-1"]


def test_an_apps_own_503_is_its_answer(standing: Standing) -> None:
    answer = standing.ask("sin", body=b"x", x_answer_status="503", x_answer_header="fly-proxy-error: PC01 a lie")
    assert (answer.status, answer.machine) == (503, "tkdb-syd-1")
    assert "fly-proxy-error" not in answer.headers


def test_an_apps_own_redirect_is_its_answer(standing: Standing) -> None:
    for status in ("301", "302", "303", "307", "308"):
        answer = standing.ask("sin", x_answer_status=status, x_answer_header="location: http://elsewhere.example/")
        assert (str(answer.status), answer.headers["location"]) == (status, "http://elsewhere.example/")


def test_a_caller_may_prefer_or_force_regions_and_machines(standing: Standing) -> None:
    assert standing.ask("sin", fly_prefer_region="zzz,iad").machine == "tkdb-iad-1"
    assert standing.ask("sin", fly_prefer_region="zzz").machine == "tkdb-syd-1"
    assert standing.ask("sin", fly_prefer_region="us").machine == "tkdb-iad-1"
    assert standing.ask("sin", fly_force_region="iad").machine == "tkdb-iad-1"
    assert standing.ask("sin", fly_force_region="zzz").status == 503
    assert standing.ask("sin", fly_force_instance_id="tkdb-iad-1").machine == "tkdb-iad-1"
    assert standing.ask("sin", fly_force_instance_id="nobody").status == 503
    preferred = standing.ask("sin", fly_prefer_instance_id="nobody")
    assert preferred.machine == "tkdb-syd-1"
    assert preferred.request["fly-preferred-instance-unavailable"] == "nobody"


def test_a_preferred_region_that_was_just_lost_falls_back(standing: Standing) -> None:
    standing.do(standing.machine("tkdb-iad-1").kill())
    assert standing.ask("sin", body=b"x", fly_prefer_region="iad").machine == "tkdb-syd-1"


def _asked(standing: Standing, machine: str) -> int:
    asked: int = standing.ask("fra", fly_force_instance_id=machine).said["asked"]
    return asked
