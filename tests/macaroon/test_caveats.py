"""Typed caveats: each meaning has one form, and an id in any other form can't be read."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.strategies import ANY_CAVEAT
from tkdb.errors import InvalidCaveat, UnknownCaveat
from tkdb.macaroon import caveats as caveats_module
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
    Req,
    Res,
    Src,
    Standard,
    Sub,
    Usr,
    decode,
    decode_all,
    encode,
)
from tkdb.macaroon.wire import ThirdParty

THUMBPRINT = "0123456789012345678901234567890123456789012"[:42] + "A"
BRANCH = "0123456789012345678901"[:21] + "A"

GOOD: list[tuple[bytes, AnyCaveat]] = [
    (b'["nbf",0]', Nbf(0)),
    (b'["exp",9007199254740991]', Exp(2**53 - 1)),
    (b'["act",""]', Act("")),
    (b'["act","rwcdC"]', Act("rwcdC")),
    (b'["res","app",{"shop":"rw","blog":"r"}]', Res("app", {"shop": "rw", "blog": "r"})),
    (b'["res","app",{"*":""}]', Res("app", {"*": ""})),
    (b'["res","a:b/c.d_e-F",{"\xc3\xa9":"C"}]', Res("a:b/c.d_e-F", {"é": "C"})),
    (b'["pre","object",{"*":"r","logs/":"rd"}]', Pre("object", {"*": "r", "logs/": "rd"})),
    (b'["if",[["res","app",{"*":"r"}]],""]', If((Res("app", {"*": "r"}),), "")),
    (
        b'["if",[["res","a",{"x":"r"}],["pre","b",{"y":"w"}]],"rw"]',
        If((Res("a", {"x": "r"}), Pre("b", {"y": "w"})), "rw"),
    ),
    (b'["aud","billing"]', Aud("billing")),
    (b'["sub","user:5"]', Sub("user:5")),
    (b'["ip",["10.0.0.0/8","2001:db8::/32"]]', Ip(("10.0.0.0/8", "2001:db8::/32"))),
    (b'["ip",["127.0.0.1/32"]]', Ip(("127.0.0.1/32",))),
    (b'["src","acme",null,null]', Src("acme", None, None)),
    (b'["src",null,"shop","e784"]', Src(None, "shop", "e784")),
    (b'["req",["GET","HEAD"],["/v1/apps/*","/v1/**","/"]]', Req(("GET", "HEAD"), ("/v1/apps/*", "/v1/**", "/"))),
    (b'["req",["*"],["/**"]]', Req(("*",), ("/**",))),
    (b'["req",["GET"],["/a/","/a/%C3%A9","/*/b"]]', Req(("GET",), ("/a/", "/a/%C3%A9", "/*/b"))),
    (b'["cnf","%s"]' % THUMBPRINT.encode(), Cnf(THUMBPRINT)),
    (b'["bind","%s"]' % BRANCH.encode(), Bind(BRANCH)),
    (b'["usr","kim"]', Usr("kim")),
    (b'["org","acme"]', Org("acme")),
    (b'["x:tier","gold"]', App("tier", "gold")),
    (b'["x:a",0]', App("a", 0)),
    (b'["x:a",true]', App("a", True)),
    (b'["x:a-b_c.d",[1,"two"]]', App("a-b_c.d", [1, "two"])),
    (b'["x:a",{"one":1,"two":"2"}]', App("a", {"one": 1, "two": "2"})),
    (b'["x:a",[]]', App("a", [])),
]

BAD = {
    "empty": b"",
    "not JSON": b"account = 3",
    "not an array": b'{"act":"r"}',
    "a text": b'"act"',
    "a number": b"7",
    "null": b"null",
    "empty array": b"[]",
    "tag is a number": b"[1,2]",
    "tag is null": b'[null,"r"]',
    "unknown tag": b'["zzz",1]',
    "tag in capitals": b'["ACT","r"]',
    "tag with a space": b'["act ","r"]',
    "array in array": b'[["act","r"]]',
    "two caveats": b'["act","r"]["act","r"]',
    "trailing byte": b'["act","r"]\x00',
    "byte order mark": b'\xef\xbb\xbf["act","r"]',
    "not UTF-8": b'["sub","\xff"]',
    "overlong UTF-8": b'["sub","\xc0\xaf"]',
    "lone surrogate": b'["sub","\\ud800"]',
    "lone surrogate in UTF-8": b'["sub","\xed\xa0\x80"]',
    "UTF-16": '["act","r"]'.encode("utf-16"),
    "escaped letter": b'["act","\\u0072"]',
    "escaped slash": b'["req",["GET"],["\\/"]]',
    "escaped tag": b'["\\u0061ct","r"]',
    "escaped app tag": b'["x\\u003aa",1]',
    "unnecessary escape": b'["sub","\\u00e9"]',
    "space after comma": b'["act", "r"]',
    "leading space": b' ["act","r"]',
    "trailing newline": b'["act","r"]\n',
    "space inside map": b'["res","app",{"a" :"r"}]',
    "trailing comma": b'["act","r",]',
    "comment": b'["act",/**/"r"]',
    "single quotes": b"['act','r']",
    "duplicate key": b'["res","app",{"a":"r","a":"rw"}]',
    "duplicate app key": b'["x:a",{"b":1,"b":2}]',
    "nul": b'["sub","a\x00"]',
    "nested": b'["sub",' + b"[" * 200 + b"]" * 200 + b"]",
    "nested without end": b"[" * 20_000,
    "nested app value": b'["x:a",[[1]]]',
    "nested maps": b'["x:a",{"b":{"c":1}}]',
    "app value nested deeply": b'["x:a",' + b"[" * 20_000,
    # integers
    "minus zero": b'["exp",-0]',
    "negative": b'["exp",-1]',
    "leading zero": b'["exp",01]',
    "plus": b'["exp",+1]',
    "float": b'["exp",1.5]',
    "whole float": b'["exp",1.0]',
    "exponent": b'["exp",1e3]',
    "infinity": b'["exp",Infinity]',
    "not a number": b'["exp",NaN]',
    "2^53": b'["exp",9007199254740992]',
    "2^64": b'["exp",18446744073709551616]',
    "5000 digits": b'["exp",' + b"9" * 5000 + b"]",
    "bool for integer": b'["exp",true]',
    "text for integer": b'["exp","5"]',
    "null for integer": b'["exp",null]',
    "hex": b'["exp",0x10]',
    # fields, tag by tag
    "nbf without time": b'["nbf"]',
    "nbf with an extra field": b'["nbf",1,2]',
    "exp with an extra field": b'["exp",1,null]',
    "act with unknown letter": b'["act","x"]',
    "act out of order": b'["act","wr"]',
    "act letter twice": b'["act","rr"]',
    "act is a list": b'["act",["r"]]',
    "act is null": b'["act",null]',
    "res without ids": b'["res","app"]',
    "res with no id": b'["res","app",{}]',
    "res with an empty id": b'["res","app",{"":"r"}]',
    "res with a star and an id": b'["res","app",{"*":"r","a":"r"}]',
    "res with unknown action": b'["res","app",{"a":"q"}]',
    "res with a number": b'["res","app",{"a":1}]',
    "res with a list": b'["res","app",["a"]]',
    "res with an empty kind": b'["res","",{"a":"r"}]',
    "res with a spaced kind": b'["res","my app",{"a":"r"}]',
    "res with a long kind": b'["res","%s",{"a":"r"}]' % (b"k" * 65),
    "res with a control character": b'["res","app",{"a\\n":"r"}]',
    "res with a bidi control": '["res","app",{"a\u202e":"r"}]'.encode(),
    "pre with an empty prefix": b'["pre","app",{"":"r"}]',
    "pre with no prefix": b'["pre","app",{}]',
    "if without caveats": b'["if",[],"r"]',
    "if without otherwise": b'["if",[["res","app",{"a":"r"}]]]',
    "if nested": b'["if",[["if",[["res","app",{"a":"r"}]],""]],""]',
    "if with another tag": b'["if",[["act","r"]],"r"]',
    "if with a bad res": b'["if",[["res","app",{}]],"r"]',
    "if with bad actions": b'["if",[["res","app",{"a":"r"}]],"x"]',
    "aud is empty": b'["aud",""]',
    "aud has a control character": b'["aud","a\\u0007"]',
    "aud is a list": b'["aud",["a"]]',
    "sub is empty": b'["sub",""]',
    "sub is a number": b'["sub",5]',
    "ip without networks": b'["ip",[]]',
    "ip is a text": b'["ip","10.0.0.0/8"]',
    "ip without a length": b'["ip",["10.0.0.1"]]',
    "ip with host bits": b'["ip",["10.0.0.1/8"]]',
    "ip with a netmask": b'["ip",["10.0.0.0/255.0.0.0"]]',
    "ip in capitals": b'["ip",["2001:DB8::/32"]]',
    "ip not in its shortest form": b'["ip",["2001:db8:0::/32"]]',
    "ip with leading zeros": b'["ip",["010.0.0.0/8"]]',
    "ip with a zone": b'["ip",["fe80::1%eth0/128"]]',
    "ip with an empty text": b'["ip",[""]]',
    "ip with a number": b'["ip",[167772160]]',
    "src without parts": b'["src",null,null,null]',
    "src with an empty part": b'["src","",null,null]',
    "src with two parts": b'["src","acme","shop"]',
    "src with four parts": b'["src","acme","shop","e784",null]',
    "req without methods": b'["req",[],["/"]]',
    "req without paths": b'["req",["GET"],[]]',
    "req in small letters": b'["req",["get"],["/"]]',
    "req with a star and a method": b'["req",["*","GET"],["/"]]',
    "req with a relative path": b'["req",["GET"],["v1"]]',
    "req with an empty path": b'["req",["GET"],[""]]',
    "req with an empty segment": b'["req",["GET"],["/a//b"]]',
    "req with a dot": b'["req",["GET"],["/a/./b"]]',
    "req with two dots": b'["req",["GET"],["/.."]]',
    "req with ** inside": b'["req",["GET"],["/**/a"]]',
    "req with a star in a segment": b'["req",["GET"],["/a*"]]',
    "req with a query": b'["req",["GET"],["/a?b"]]',
    "req with a space": b'["req",["GET"],["/a b"]]',
    "req with a backslash": b'["req",["GET"],["/a\\\\b"]]',
    "req not ASCII": '["req",["GET"],["/é"]]'.encode(),
    "cnf too short": b'["cnf","%s"]' % THUMBPRINT[1:].encode(),
    "cnf with stray bits": b'["cnf","%sB"]' % THUMBPRINT[:-1].encode(),
    "cnf padded": b'["cnf","%s="]' % THUMBPRINT.encode(),
    "bind too long": b'["bind","%s"]' % THUMBPRINT.encode(),
    "usr is empty": b'["usr",""]',
    "org is null": b'["org",null]',
    "app without a name": b'["x:",1]',
    "app in capitals": b'["x:A",1]',
    "app with a long name": b'["x:%s",1]' % (b"a" * 65),
    "app without a value": b'["x:a"]',
    "app with two values": b'["x:a",1,2]',
    "app with null": b'["x:a",null]',
    "app with a float": b'["x:a",1.5]',
    "app with 2^53": b'["x:a",9007199254740992]',
    "app with a negative number": b'["x:a",-1]',
    "app with a bool in a list": b'["x:a",[true]]',
}


@pytest.mark.parametrize(("cid", "caveat"), GOOD, ids=lambda case: case.decode() if isinstance(case, bytes) else None)
def test_a_caveat_and_its_id_convert_into_each_other(cid: bytes, caveat: AnyCaveat) -> None:
    assert decode(cid) == caveat
    assert encode(caveat) == cid


def test_every_caveat_type_has_an_example() -> None:
    assert {type(caveat) for _, caveat in GOOD} == set(get_args(AnyCaveat))


@pytest.mark.parametrize("cid", BAD.values(), ids=BAD.keys())
def test_a_caveat_id_in_any_other_form_is_unknown(cid: bytes) -> None:
    with pytest.raises(UnknownCaveat, match="a caveat can't be read: ") as caught:
        decode(cid)
    assert caught.value.__cause__ is None
    with pytest.raises(UnknownCaveat):
        decode_all([cid])


@given(ANY_CAVEAT)
def test_any_caveat_survives_a_round_trip(caveat: AnyCaveat) -> None:
    assert decode(encode(caveat)) == caveat


@given(st.binary(max_size=60) | st.sampled_from([cid for cid, _ in GOOD]), st.data())
def test_any_bytes_are_a_caveat_in_its_only_form_or_unknown(cid: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(cid)))
    cid = cid[:at] + data.draw(st.binary(max_size=3)) + cid[at + data.draw(st.integers(0, 3)) :]
    try:
        caveat = decode(cid)
    except UnknownCaveat:
        return
    assert encode(caveat) == cid


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_any_json_is_a_caveat_in_its_only_form_or_unknown(value: Any) -> None:
    for tag in ("act", "res", "if", "ip", "req", "x:a"):
        cid = msgspec.json.encode([tag, *value] if isinstance(value, list) else [tag, value])
        with contextlib.suppress(UnknownCaveat):
            assert encode(decode(cid)) == cid


def test_a_long_id_is_read_and_not_cached() -> None:
    before = caveats_module._kept.cache_info().currsize
    cid = encode(App("long", "a" * 15_000))
    assert decode_all([cid]) == (App("long", "a" * 15_000),)
    assert caveats_module._kept.cache_info().currsize == before


def test_third_party_caveats_are_returned_unchanged() -> None:
    caveat = ThirdParty(b"elsewhere", b"ticket", b"v" * 72)
    assert decode_all([b'["act","r"]', caveat]) == (Act("r"), caveat)


# --- immutability -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cid", "caveat"), GOOD, ids=lambda case: case.decode() if isinstance(case, bytes) else None)
def test_no_field_can_be_set(cid: bytes, caveat: AnyCaveat) -> None:
    read = decode_all([cid])[0]
    for name in read.__struct_fields__:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(read, name, getattr(caveat, name))


@pytest.mark.parametrize("cid", [b'["res","a",{"x":"r"}]', b'["pre","a",{"x":"r"}]', b'["x:a",{"x":"r"}]'])
def test_a_reader_cannot_change_a_cached_caveat_for_the_next_reader(cid: bytes) -> None:
    read: Any = decode_all([cid])[0]
    grants = read.value if isinstance(read, App) else read.ids
    with pytest.raises(TypeError):
        grants["y"] = "rwcdC"
    with pytest.raises(AttributeError):
        grants.update(y="rwcdC")
    with pytest.raises(TypeError):
        del grants["x"]
    assert decode_all([cid])[0] == decode(cid)


def test_a_list_is_read_as_a_tuple() -> None:
    assert decode(b'["x:a",[1,2]]') == App("a", (1, 2))
    read = decode(b'["x:a",[1,2]]')
    assert isinstance(read, App)
    assert type(read.value) is tuple


def test_a_caveat_copies_the_dict_that_it_is_built_from() -> None:
    ids, value = {"shop": "r"}, {"a": 1}
    res, app = Res("app", ids), App("a", value)
    ids["shop"] = "rwcdC"
    value["a"] = 2
    assert encode(res) == b'["res","app",{"shop":"r"}]'
    assert encode(app) == b'["x:a",{"a":1}]'


# --- caveats that can't be written ------------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "text for integer": lambda: Exp("5"),  # type: ignore[arg-type]
    "float for integer": lambda: Exp(5.0),  # type: ignore[arg-type]
    "bool for integer": lambda: Exp(True),
    "None for integer": lambda: Nbf(None),  # type: ignore[arg-type]
    "negative": lambda: Exp(-1),
    "too big": lambda: Exp(2**53),
    "far too big": lambda: Exp(10**400),
    "number for actions": lambda: Act(5),  # type: ignore[arg-type]
    "actions out of order": lambda: Act("wr"),
    "empty text": lambda: Aud(""),
    "control character": lambda: Sub("a\n"),
    "lone surrogate": lambda: Sub("\ud800"),
    "no ids": lambda: Res("app", {}),
    "star and an id": lambda: Res("app", {"*": "r", "a": "r"}),
    "actions that are a number": lambda: Res("app", {"a": 5}),  # type: ignore[dict-item]
    "if without caveats": lambda: If((), "r"),
    "act in an if": lambda: If((Act("r"),), "r"),  # type: ignore[arg-type]
    "if in an if": lambda: If((If((Res("a", {"b": "r"}),), ""),), "r"),  # type: ignore[arg-type]
    "address for network": lambda: Ip(("10.0.0.1",)),
    "number for network": lambda: Ip((5,)),  # type: ignore[arg-type]
    "text for networks": lambda: Ip("10.0.0.0/8"),  # type: ignore[arg-type]
    "no networks": lambda: Ip(()),
    "a network twice": lambda: Ip(("10.0.0.0/8", "10.0.0.0/8")),
    "65 networks": lambda: Ip(tuple(f"10.0.{number}.0/24" for number in range(65))),
    "source without parts": lambda: Src(None, None, None),
    "text for methods": lambda: Req("GET", ("/",)),  # type: ignore[arg-type]
    "no methods": lambda: Req((), ("/",)),
    "no paths": lambda: Req(("GET",), ()),
    "bytes for a path": lambda: Req(("GET",), ("a",)),
    "short thumbprint": lambda: Cnf("abc"),
    "name in capitals": lambda: App("Tier", 1),
    "None as a value": lambda: App("a", None),
    "float as a value": lambda: App("a", 1.5),
    "object as a value": lambda: App("a", object()),
    "bytes as a value": lambda: App("a", b"bytes"),
    "set as a value": lambda: App("a", {1, 2}),
    "nested list": lambda: App("a", [[1]]),
    "integer keys": lambda: App("a", {1: 2}),
    "list that contains itself": lambda: App("a", endless()),
}


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("build", WRONG.values(), ids=WRONG.keys())
def test_an_unreadable_caveat_cannot_be_written(build: Any) -> None:
    with pytest.raises(InvalidCaveat) as caught:
        encode(build())
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("other", [5, "act", ["act", "r"], {"act": "r"}, object(), None, ThirdParty(b"a", b"b", b"c")])
def test_an_object_of_another_type_cannot_be_written(other: Any) -> None:
    with pytest.raises(InvalidCaveat):
        encode(other)


# --- permanence -------------------------------------------------------------------------------------------------


def test_tags_and_fields_are_permanent() -> None:
    """Fields are never added, removed or reordered, because existing tokens contain them."""
    forms = {str(kind.__struct_config__.tag): kind.__struct_fields__ for kind in get_args(Standard)}
    assert forms == {
        "nbf": ("at_s",),
        "exp": ("at_s",),
        "act": ("actions",),
        "res": ("kind", "ids"),
        "pre": ("kind", "ids"),
        "if": ("caveats", "otherwise"),
        "aud": ("service",),
        "sub": ("subject",),
        "ip": ("networks",),
        "src": ("organization", "app", "machine"),
        "req": ("methods", "paths"),
        "cnf": ("thumbprint",),
        "bind": ("branch",),
        "usr": ("user",),
        "org": ("organization",),
    }


def test_only_sub_usr_and_org_are_facts() -> None:
    assert {kind for kind in get_args(AnyCaveat) if kind.fact} == {Sub, Usr, Org}
