"""Hypothesis strategies: any caveat, any access."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tkdb.armor import b64url
from tkdb.macaroon.access import ANY, Access, Source
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
    Sub,
    Usr,
)

TEXT = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8)
SECONDS = st.integers(0, 2**53 - 1)
KINDS = st.sampled_from(["app", "db", "object"])
IDS = st.sampled_from(["a", "ab", "abc", "b"]) | TEXT.filter("*".__ne__)
ACTIONS = st.sets(st.sampled_from("rwcdC")).map(lambda letters: "".join(sorted(letters, key="rwcdC".index)))
NETWORKS = st.sampled_from(["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "2001:db8::/32", "::/0"])
ADDRESSES = st.sampled_from(["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "fe80::1%x\x1b"])
GLOBS = st.sampled_from(["/", "/*", "/**", "/v1/*", "/v1/**", "/v1/apps", "/v1/apps/", "/v1/*/b"])
RES: st.SearchStrategy[Res] = st.builds(
    Res, KINDS, st.dictionaries(IDS, ACTIONS, min_size=1, max_size=3) | st.builds(lambda a: {"*": a}, ACTIONS)
)
PRE: st.SearchStrategy[Pre] = st.builds(
    Pre, KINDS, st.dictionaries(IDS | st.just("*"), ACTIONS, min_size=1, max_size=3)
)
NAMES = st.text(st.sampled_from("abz09._-"), max_size=5).map("n".__add__)
APP_VALUES: st.SearchStrategy[Any] = (
    SECONDS
    | st.booleans()
    | st.text(max_size=5)
    | st.lists(SECONDS | TEXT, max_size=3)
    | st.dictionaries(st.text(max_size=4), SECONDS | TEXT, max_size=3)
)
RESTRICTIONS: st.SearchStrategy[AnyCaveat] = (
    st.builds(Nbf, SECONDS)
    | st.builds(Exp, SECONDS)
    | st.builds(Act, ACTIONS)
    | RES
    | PRE
    | st.builds(If, st.lists(RES | PRE, min_size=1, max_size=3).map(tuple), ACTIONS)
    | st.builds(Aud, TEXT)
    | st.builds(Ip, st.lists(NETWORKS, min_size=1, max_size=3, unique=True).map(tuple))
    | st.tuples(*[st.none() | TEXT] * 3).filter(any).map(lambda parts: Src(*parts))
    | st.builds(
        Req,
        st.just(("*",)) | st.lists(st.sampled_from(["GET", "PUT"]), min_size=1, max_size=2).map(tuple),
        st.lists(GLOBS, min_size=1, max_size=3).map(tuple),
    )
    | st.builds(Cnf, st.binary(min_size=32, max_size=32).map(b64url))
    | st.builds(App, NAMES, APP_VALUES)
)
MINTABLE: st.SearchStrategy[AnyCaveat] = RESTRICTIONS | st.builds(Sub, TEXT)
ANY_CAVEAT: st.SearchStrategy[AnyCaveat] = (
    MINTABLE
    | st.builds(Bind, st.binary(min_size=16, max_size=16).map(b64url))
    | st.builds(Usr, TEXT)
    | st.builds(Org, TEXT)
)
ACCESSES: st.SearchStrategy[Access] = st.builds(
    Access,
    action=st.none() | ACTIONS.filter(bool),
    resource=st.dictionaries(KINDS, IDS | st.none() | st.just(ANY) | st.just("*") | st.just(""), max_size=3),
    method=st.none() | st.sampled_from(["GET", "get", "PUT", "*", ""]) | st.text(max_size=4),
    path=st.none() | GLOBS | st.sampled_from(["/v1/apps/x", "/v1//x", "/v1/../x", "/%2e", "x"]) | st.text(max_size=8),
    ip=st.none()
    | st.sampled_from(["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "fe80::1%x\x1b"])
    | st.text(max_size=8),
    source=st.none() | st.builds(Source, organization=st.none() | TEXT, app=st.none() | TEXT, machine=st.none() | TEXT),
    key_thumbprint=st.none() | st.text(max_size=43),
    now_s=st.none() | st.floats() | SECONDS.map(float),
)
