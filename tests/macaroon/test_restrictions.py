"""The arguments that restrict a token: the same list everywhere, and empty never means everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.test_token import make
from tkdb.errors import ConfigurationError, InvalidCaveat
from tkdb.macaroon import restrictions
from tkdb.macaroon.access import Access, Policy
from tkdb.macaroon.caveats import Act, App, Aud, Exp, If, Ip, Pre, Req, Res, Sub
from tkdb.macaroon.clearing import clear
from tkdb.macaroon.restrictions import NAMES, Restrictions, minted, written

FULL: Restrictions = {
    "path": "/v1/*",
    "method": "GET",
    "ip": "10.0.0.0/8",
    "prefix": {"object": {"logs/": "r"}},
    "resource": {"db": {"b": "r", "a": "rw"}, "app": {"shop": "r"}},
    "action": "r",
    "audience": "billing",
}


def test_each_argument_is_one_caveat_in_a_fixed_order() -> None:
    assert written(FULL) == [
        Aud("billing"),
        Act("r"),
        Res("app", {"shop": "r"}),
        Res("db", {"a": "rw", "b": "r"}),
        Pre("object", {"logs/": "r"}),
        Ip(("10.0.0.0/8",)),
        Req(("GET",), ("/v1/*",)),
    ]
    assert written({"ip": ["10.0.0.0/8", "2001:db8::/32"]}) == [Ip(("10.0.0.0/8", "2001:db8::/32"))]
    assert written({"method": "GET"}) == [Req(("GET",), ("/", "/**"))]
    assert written({"path": "/a"}) == [Req(("*",), ("/a",))]


def test_otherwise_makes_one_condition_of_the_resources_and_prefixes() -> None:
    named: Restrictions = {"resource": {"app": {"shop": "rw"}}, "prefix": {"object": {"a/": "r"}}, "otherwise": "r"}
    [condition] = written(named)
    assert condition == If((Res("app", {"shop": "rw"}), Pre("object", {"a/": "r"})), "r")
    policy = Policy(organization="acme", clock=lambda: 0)
    clear("acme", [condition], Access(action="r"), policy)
    clear("acme", [condition], Access(action="w", resource={"app": "shop"}), policy)


def test_none_restricts_nothing() -> None:
    assert written(dict.fromkeys(NAMES, None)) == written({}) == []  # type: ignore[arg-type]  # every name, once
    assert make().narrow(**dict.fromkeys(NAMES, None)) == make().narrow() == make()  # type: ignore[arg-type]


EMPTY = st.sampled_from(["", b"", [], (), {}, set(), frozenset(), iter(())])


@given(name=st.sampled_from(NAMES), empty=EMPTY)
def test_an_empty_restriction_is_refused_or_allows_nothing(name: str, empty: Any) -> None:
    given_: Any = {name: empty}
    with pytest.raises(InvalidCaveat, match=rf"^{name}( is |=)"):
        make().narrow(**given_)


def test_an_empty_resource_would_restrict_nothing_without_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: this was the rule before."""
    monkeypatch.setattr(
        restrictions, "_granted", lambda _name, kind_of, ids: [kind_of(*each) for each in (ids or {}).items()]
    )
    assert written({"resource": {}}) == []


def test_an_argument_with_no_such_name_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="there is no argument act: the restrictions are action, resource"):
        make().narrow(act="r")  # type: ignore[call-arg]  # a wrong name


def test_only_caveats_are_accepted_as_caveats() -> None:
    for wrong in ("r", None, 5, b'["act","r"]', {"act": "r"}, Act):
        with pytest.raises(InvalidCaveat, match="is not a caveat"):
            make().narrow(wrong)  # type: ignore[arg-type]  # a wrong type


def test_a_token_is_minted_with_its_subject_first_and_further_caveats_last() -> None:
    assert minted({"action": "r"}, "kim", [App("plan", "pro")]) == [Sub("kim"), Act("r"), App("plan", "pro")]
    for wrong in ("", 5, "a\n"):
        with pytest.raises(InvalidCaveat, match=r"^subject="):
            minted({}, wrong, [])  # type: ignore[arg-type]  # wrong types too


def test_a_duration_may_be_a_timedelta() -> None:
    minute = timedelta(minutes=1)
    assert make().narrow(expires_in_s=minute, now_s=0) == make().narrow(expires_in_s=60, now_s=0)
    assert make().narrow(Act("r"), expires_in_s=60, now_s=0).caveats[2:] == (Act("r"), Exp(60))
    assert restrictions.lifetime_s(minute) == restrictions.lifetime_s(60.0) == 60


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Act(5),
        lambda: Act(["r"]),
        lambda: Res(5, {"a": "r"}),
        lambda: Res("app", None),
        lambda: Ip(None),
        lambda: Ip("10.0.0.0/8"),
        lambda: Ip((5,)),
        lambda: Ip(()),
        lambda: Req("GET", ("/a",)),
        lambda: Req(("GET",), "/a"),
        lambda: Req((), ("/a",)),
        lambda: Req(None, None),
        lambda: Aud(None),
        lambda: App(5, "a"),
    ],
)
def test_a_caveat_with_a_field_of_a_wrong_type_is_an_invalid_caveat(wrong: Any) -> None:
    with pytest.raises(InvalidCaveat):
        wrong()


def test_lists_in_a_caveat_become_immutable() -> None:
    assert Req(["GET"], ["/a"]) == Req(("GET",), ("/a",))  # type: ignore[arg-type]  # lists are accepted
    assert Ip(["10.0.0.0/8"]).networks == ("10.0.0.0/8",)  # type: ignore[arg-type]
