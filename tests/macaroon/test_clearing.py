"""The meaning of each caveat, case by case, and the texts of denials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.single_caveat import NOW_S, POLICY, clears, denial
from tests.macaroon.strategies import ACCESSES, ANY_CAVEAT
from tkdb.errors import CaveatUnmet, Denied, ExpiredToken, NotYetValid
from tkdb.macaroon import clearing
from tkdb.macaroon.access import ANY, Access, Policy, Source
from tkdb.macaroon.caveats import (
    Act,
    AnyCaveat,
    App,
    Aud,
    Bind,
    Cnf,
    Exp,
    If,
    Ip,
    Nbf,
    Org,
    Pre,
    Res,
    Src,
    Sub,
    Usr,
)
from tkdb.macaroon.clearing import clear, describe, explain

THUMBPRINT = "A" * 43


# --- nbf, exp ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caveat", "skew_s", "now_s", "expected"),
    [
        (Exp(NOW_S), 0, NOW_S, True),
        (Exp(NOW_S), 0, NOW_S + 0.001, False),
        (Exp(NOW_S), 0, NOW_S + 1, False),
        (Exp(NOW_S), 5, NOW_S + 5, True),
        (Exp(NOW_S), 5, NOW_S + 5.001, False),
        (Exp(0), 0, 0, True),
        (Nbf(NOW_S), 0, NOW_S, True),
        (Nbf(NOW_S), 0, NOW_S - 0.001, False),
        (Nbf(NOW_S), 5, NOW_S - 5, True),
        (Nbf(NOW_S), 5, NOW_S - 5.001, False),
        (Exp(NOW_S), 0, float("nan"), False),
        (Nbf(NOW_S), 0, float("nan"), False),
        (Exp(NOW_S), 0, float("inf"), False),
        (Nbf(NOW_S), 0, float("-inf"), False),
    ],
)
def test_a_validity_window_is_inclusive_and_widened_by_the_skew_only(
    caveat: AnyCaveat, skew_s: float, now_s: float, *, expected: bool
) -> None:
    assert (
        clears(caveat, Access(now_s=now_s), Policy(organization="acme", clock=lambda: NOW_S, skew_s=skew_s)) is expected
    )
    assert clears(caveat, Access(), Policy(organization="acme", clock=lambda: now_s, skew_s=skew_s)) is expected


def test_the_time_of_an_access_takes_precedence_over_the_clock() -> None:
    assert clears(Exp(10), Access(now_s=10))
    assert clears(Exp(10), Access(now_s=0))  # a time of 0 counts as a time
    assert not clears(Exp(10), Access())


def test_expired_and_not_yet_valid_are_separate_reasons() -> None:
    with pytest.raises(ExpiredToken, match=r"caveat 1 of 1 \(exp 1699999990\): expired 10 s ago"):
        clear("acme", [Exp(NOW_S - 10)], Access(), POLICY)
    with pytest.raises(NotYetValid, match=r"caveat 1 of 1 \(nbf 1700000010\): valid in 10 s"):
        clear("acme", [Nbf(NOW_S + 10)], Access(), POLICY)


# --- act --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "wanted", "expected"),
    [
        ("r", "r", True),
        ("rwcdC", "C", True),
        ("c", "C", False),
        ("C", "c", False),
        ("rw", "rw", True),
        ("rw", "wr", True),
        ("rw", "rr", True),
        ("rw", "rwd", False),
        ("r", "w", False),
        ("rwcdC", None, False),
        ("", "r", False),
        ("", None, False),
    ],
)
def test_every_action_attempted_must_be_allowed(allowed: str, wanted: str | None, *, expected: bool) -> None:
    assert clears(Act(allowed), Access(action=wanted)) is expected


def test_the_denial_of_an_action_names_the_allowed_and_the_requested_actions() -> None:
    assert denial(Act("rw"), Access(action="d")) == "caveat 1 of 1 (act rw) is not met: it allows rw; the request is d"
    assert "it allows nothing; the request is d" in denial(Act(""), Access(action="d"))
    assert "action unspecified" in denial(Act("r"), Access())


# --- res, pre ---------------------------------------------------------------------------------------------------

SHOP = Res("app", {"shop": "rw", "blog": "r"})
ALL = Res("app", {"*": "r"})


@pytest.mark.parametrize(
    ("caveat", "resource", "action", "expected"),
    [
        (SHOP, {"app": "shop"}, "w", True),
        (SHOP, {"app": "shop"}, "d", False),
        (SHOP, {"app": "blog"}, "w", False),
        (SHOP, {"app": "Shop"}, "r", False),
        (SHOP, {"app": "sho"}, "r", False),
        (SHOP, {"app": "shop/x"}, "r", False),
        (SHOP, {"db": "shop"}, "r", False),
        (SHOP, {"app": "shop", "db": "x"}, "r", True),
        (SHOP, {"app": "shop"}, None, False),
        (SHOP, {"app": ""}, "r", False),
        (SHOP, {"app": None}, "r", False),
        (SHOP, {}, "r", False),
        (SHOP, {"app": ANY}, "r", False),
        (SHOP, {"app": "*"}, "r", False),
        (ALL, {"app": "shop"}, "r", True),
        (ALL, {"app": "shop"}, "w", False),
        (ALL, {"app": ANY}, "r", True),
        (ALL, {"app": ANY}, "w", False),
        (ALL, {"app": None}, "r", False),
        (ALL, {}, "r", False),
        (ALL, {"app": "*"}, "r", False),  # an access's id of "*" never means every resource
        (Res("app", {"5": "r"}), {"app": 5}, "r", True),
        (ALL, {"app": 5}, "r", True),
        (SHOP, {"app": 5}, "r", False),
    ],
)
def test_a_resource_must_be_named_and_allowed(
    caveat: AnyCaveat, resource: Any, action: str | None, *, expected: bool
) -> None:
    assert clears(caveat, Access(action=action, resource=resource)) is expected


LOGS = Pre("object", {"*": "r", "logs/": "rd", "logs/audit/": "", "logs/audit/mine": "w"})


@pytest.mark.parametrize(
    ("caveat", "wanted", "action", "expected"),
    [
        (LOGS, "other", "r", True),
        (LOGS, "logs", "d", False),
        (LOGS, "logs/", "d", True),
        (LOGS, "logs/x", "d", True),
        (LOGS, "logs/x", "w", False),
        (LOGS, "logs/audit/x", "r", False),  # the longest prefix alone decides
        (LOGS, "logs/audit/mine/x", "w", True),
        (LOGS, "logs/audit/mine/x", "r", False),
        (LOGS, "", "r", False),
        (LOGS, None, "r", False),
        (LOGS, "*", "r", False),
        (LOGS, 5, "r", True),
        (LOGS, 5, "w", False),
        (Pre("object", {"a": "r"}), "b", "r", False),
        (Pre("object", {"a": "r"}), "", "r", False),
        (Pre("object", {"a": "r"}), "A", "r", False),
        (Pre("object", {"a": "r", "*": ""}), "ab", "r", True),
        # ANY asks for every id, so every prefix must allow it, the longer ones too.
        (LOGS, ANY, "r", False),
        (Pre("object", {"*": "rw", "logs/": "r"}), ANY, "r", True),
        (Pre("object", {"*": "rw", "logs/": "r"}), ANY, "w", False),
        (Pre("object", {"logs/": "r"}), ANY, "r", False),
    ],
)
def test_the_longest_prefix_decides(caveat: AnyCaveat, wanted: Any, action: str, *, expected: bool) -> None:
    assert clears(caveat, Access(action=action, resource={"object": wanted})) is expected


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=3) | st.just("*"), st.sampled_from(["", "r", "w"]), min_size=1),
    st.text("ab", min_size=1, max_size=4),
    st.sampled_from("rw"),
)
def test_the_order_of_prefixes_does_not_matter(ids: dict[str, str], wanted: str, action: str) -> None:
    access = Access(action=action, resource={"object": wanted})
    in_reverse = dict(reversed(ids.items()))
    assert clears(Pre("object", ids), access) is clears(Pre("object", in_reverse), access)
    longest = max((p for p in ids if p != "*" and wanted.startswith(p)), key=len, default="*")
    assert clears(Pre("object", ids), access) is (action in ids.get(longest, ""))


def test_the_denial_of_a_resource_gives_the_reason() -> None:
    assert "the request's app is 'db', which is not among those allowed" in denial(
        SHOP, Access(action="r", resource={"app": "db"})
    )
    assert "resource unspecified: the request names no app" in denial(SHOP, Access(action="r"))
    assert "resource unspecified: '*' is not an id of the kind app" in denial(
        SHOP, Access(action="r", resource={"app": "*"})
    )


# --- if ---------------------------------------------------------------------------------------------------------

EITHER = If((Res("app", {"shop": "rw"}), Pre("object", {"logs/": "r"})), "c")


@pytest.mark.parametrize(
    ("resource", "action", "expected"),
    [
        ({"app": "shop"}, "w", True),
        ({"app": "shop"}, "c", False),  # the request names the kind, so the else-actions don't apply
        ({"app": "blog"}, "c", False),
        ({"object": "logs/x"}, "r", True),
        ({"object": "logs/x"}, "w", False),
        ({"app": "shop", "object": "logs/x"}, "r", True),
        ({"app": "shop", "object": "logs/x"}, "w", False),  # each kind that is named must clear
        ({"app": "shop", "object": "other"}, "r", False),
        ({}, "c", True),
        ({}, "r", False),
        ({}, None, False),
        ({"db": "x"}, "c", True),
        ({"db": "x"}, "w", False),
        ({"app": None}, "c", False),  # the request names the kind, but no id
        ({"app": ANY}, "c", False),
        ({"app": "*"}, "c", False),
        ({"app": None, "object": "logs/x"}, "r", False),
    ],
)
def test_the_else_actions_apply_only_if_the_request_names_none_of_the_kinds(
    resource: Any, action: str | None, *, expected: bool
) -> None:
    assert clears(EITHER, Access(action=action, resource=resource)) is expected


def test_two_grants_of_one_kind_in_an_if_must_both_clear() -> None:
    both = If((Res("app", {"*": "rw"}), Res("app", {"shop": "r"})), "")
    assert clears(both, Access(action="r", resource={"app": "shop"}))
    assert not clears(both, Access(action="w", resource={"app": "shop"}))


# --- aud, ip, src, cnf ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audience", "expected"), [("billing", True), ("Billing", False), ("billing2", False), (None, False)]
)
def test_only_the_named_service_accepts(audience: str | None, *, expected: bool) -> None:
    assert (
        clears(Aud("billing"), Access(), Policy(organization="acme", clock=lambda: NOW_S, audience=audience))
        is expected
    )


def test_two_different_audiences_never_clear() -> None:
    policy = Policy(organization="acme", clock=lambda: NOW_S, audience="billing")
    with pytest.raises(CaveatUnmet, match="only shipping may accept it; this is billing"):
        clear("acme", [Aud("billing"), Aud("shipping")], Access(), policy)


NETWORKS = Ip(("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:DB8:0:0::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", True),  # an IPv4 address as some sockets show it
        ("::ffff:11.1.2.3", False),
        ("::10.1.2.3", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("10.0.0.1:80", False),
        ("10.0.0", False),
        ("010.0.0.1", False),
        ("10.0.0.1/8", False),
        (" 10.0.0.1", False),
        ("localhost", False),
        ("[2001:db8::1]", False),
        ("10.0.0.1, 1.1.1.1", False),
        ("１０.0.0.1", False),  # noqa: RUF001 - full-width digits are the attack
        (None, False),
    ],
)
def test_an_address_must_be_in_a_listed_network(address: str | None, *, expected: bool) -> None:
    assert clears(NETWORKS, Access(ip=address)) is expected


def test_a_network_matches_only_addresses_of_its_ip_version() -> None:
    assert not clears(Ip(("::/0",)), Access(ip="10.0.0.1"))
    assert not clears(Ip(("0.0.0.0/0",)), Access(ip="2001:db8::1"))
    assert clears(Ip(("0.0.0.0/0",)), Access(ip="::ffff:10.0.0.1"))


def test_the_zone_of_an_address_is_not_shown() -> None:
    assert "the request comes from fe80::1" in denial(NETWORKS, Access(ip="fe80::1%\x1b[31m"))
    assert "\x1b" not in denial(NETWORKS, Access(ip="fe80::1%\x1b[31m"))
    assert denial(NETWORKS, Access(ip="\x1b")).endswith("the request's address can't be read")


HERE = Source(organization="acme", app="shop", machine="e784")


@pytest.mark.parametrize(
    ("caveat", "source", "expected"),
    [
        (Src("acme", None, None), HERE, True),
        (Src(None, "shop", None), HERE, True),
        (Src(None, None, "e784"), HERE, True),
        (Src("acme", "shop", "e784"), HERE, True),
        (Src("acme", "shop", "other"), HERE, False),
        (Src("evil", "shop", "e784"), HERE, False),
        (Src("Acme", None, None), HERE, False),
        (Src("acme", None, None), Source(), False),
        (Src("acme", None, None), Source(app="acme", machine="acme"), False),
        (Src(None, "shop", None), Source(organization="acme"), False),
        (Src("acme", None, None), None, False),
    ],
)
def test_each_part_of_the_source_must_be_attested(caveat: Src, source: Source | None, *, expected: bool) -> None:
    assert clears(caveat, Access(source=source)) is expected


def test_only_the_key_that_the_token_is_bound_to_clears() -> None:
    assert clears(Cnf(THUMBPRINT), Access(key_thumbprint=THUMBPRINT))
    for other in (None, "", "B" * 42 + "A", THUMBPRINT[:-1], THUMBPRINT.lower()):
        assert not clears(Cnf(THUMBPRINT), Access(key_thumbprint=other))


# --- discharge caveats, facts, and app caveats ------------------------------------------------------------------


@pytest.mark.parametrize("caveat", [Bind("A" * 22), Usr("kim"), Org("acme")], ids=describe)
def test_a_discharge_caveat_never_clears_in_a_root(caveat: AnyCaveat) -> None:
    assert "it is allowed only in a discharge" in denial(caveat, Access(action="r"))


def test_a_fact_restricts_nothing() -> None:
    assert clears(Sub("kim"), Access())


def with_checker(checker: Callable[..., Any]) -> Policy:
    return Policy(organization="acme", clock=lambda: NOW_S, checkers={"tier": checker})


@pytest.mark.parametrize(
    ("result", "expected"), [(True, True), (False, False), (1, False), ("yes", False), (None, False), ([True], False)]
)
def test_a_checker_clears_only_by_returning_true(result: Any, *, expected: bool) -> None:
    assert clears(App("tier", "gold"), Access(), with_checker(lambda _value, _access: result)) is expected


def test_a_checker_gets_the_value_and_the_access() -> None:
    access = Access(extra={"plan": "gold"})
    clear("acme", [App("tier", ["gold", 1])], access, with_checker(lambda *args: args == (("gold", 1), access)))


def test_a_checker_that_raises_denies_and_its_message_is_not_shown() -> None:
    def checker(_value: Any, _access: Access) -> bool:
        raise KeyError("secret")

    text = denial(App("tier", "gold"), Access(), with_checker(checker))
    assert "the checker of x:tier failed with KeyError" in text
    assert "secret" not in text


def test_a_keyboard_interrupt_in_a_checker_is_not_caught() -> None:
    def checker(_value: Any, _access: Access) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clear("acme", [App("tier", "gold")], Access(), with_checker(checker))


def test_an_app_caveat_without_a_checker_denies() -> None:
    assert "this app has no checker for x:tier" in denial(App("tier", "gold"), Access())
    assert "this app has no checker for x:tier2" in denial(
        App("tier2", "gold"), Access(), with_checker(lambda *_: True)
    )


# --- several caveats --------------------------------------------------------------------------------------------


def test_an_empty_list_of_caveats_clears_any_access() -> None:
    clear("acme", [], Access(), POLICY)


def test_the_first_caveat_that_does_not_clear_is_named() -> None:
    caveats = (Exp(NOW_S + 1), Act("rw"), Aud("billing"), Act("r"), Exp(0))
    with pytest.raises(CaveatUnmet, match=r"caveat 3 of 5 \(aud billing\) is not met: only billing may") as caught:
        clear("acme", caveats, Access(action="r"), POLICY)
    assert caught.value.caveat == 3


def test_every_caveat_type_has_a_check() -> None:
    assert clearing._CHECKS.keys() == set(get_args(AnyCaveat))


@given(st.lists(ANY_CAVEAT, max_size=5), ACCESSES)
def test_explain_and_clear_agree(caveats: list[AnyCaveat], access: Access) -> None:
    """For any access, each caveat clears or denies with a reason, and ``clear`` raises the first denial."""
    policy = Policy(
        organization="acme", clock=lambda: NOW_S, audience="billing", checkers={"n": lambda value, _: value is True}
    )
    reasons = explain(caveats, access, policy)
    assert len(reasons) == len(caveats)
    first = next((at for at, why in enumerate(reasons) if why is not None), None)
    if first is None:
        clear("acme", caveats, access, policy)
        return
    with pytest.raises((CaveatUnmet, ExpiredToken, NotYetValid)) as caught:
        clear("acme", caveats, access, policy)
    assert str(reasons[first]) in caught.value.message
    assert caught.value.caveat is not None
    assert caveats[caught.value.caveat - 1] == caveats[first]


@given(st.lists(ANY_CAVEAT, max_size=3), ANY_CAVEAT, ACCESSES)
def test_an_added_caveat_never_allows_more(caveats: list[AnyCaveat], more: AnyCaveat, access: Access) -> None:
    try:
        clear("acme", [*caveats, more], access, POLICY)
    except Denied:
        return
    clear("acme", caveats, access, POLICY)


@pytest.mark.parametrize(
    ("caveat", "text"),
    [
        (Act("rw"), "act rw"),
        (Exp(5), "exp 5"),
        (Res("app", {"shop": "r"}), 'res "app",{"shop":"r"}'),
        (Ip(("10.0.0.0/8",)), 'ip ["10.0.0.0/8"]'),
        (Src(None, "shop", None), 'src null,"shop",null'),
        (App("tier", "gold"), "x:tier gold"),
        (Sub("a,b"), 'sub "a,b"'),
    ],
)
def test_a_caveat_is_described_by_its_tag_and_fields(caveat: AnyCaveat, text: str) -> None:
    assert describe(caveat) == text
