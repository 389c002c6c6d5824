"""docs/caveats.md documents every caveat, and every example on the page is a valid caveat."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from tkdb.errors import CaveatUnmet
from tkdb.macaroon.access import ANY, Access, Policy, Source
from tkdb.macaroon.caveats import App, Pre, Req, Standard, decode, encode
from tkdb.macaroon.clearing import clear

PAGE = Path(__file__, "../../../docs/caveats.md").resolve().read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([a-z]+|x:NAME)` \| `(\[.*?\])` \| (.+) \|$", PAGE, flags=re.MULTILINE)
EXAMPLES = re.findall(r'`(\["[^`]+\])`', PAGE)
POLICY = Policy(
    organization="acme",
    clock=lambda: 1_700_000_000,
    audience="billing",
    checkers={"tier": lambda value, _: value == "gold"},
)
ACCESS = Access(
    action="r",
    resource={"app": "shop", "object": "logs/mine/1"},
    method="GET",
    path="/v1/apps/shop",
    ip="10.0.0.1",
    source=Source(organization="acme", app="shop", machine="e784"),
    key_thumbprint="NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
)


def test_every_tag_is_documented_once_and_in_order() -> None:
    tags = [str(kind.__struct_config__.tag) for kind in get_args(Standard)]
    assert [tag for tag, _, _ in ROWS] == [*tags, "x:NAME"]


@pytest.mark.parametrize(("tag", "example", "_meaning"), ROWS, ids=[row[0] for row in ROWS])
def test_every_tag_has_an_example_with_that_tag(tag: str, example: str, _meaning: str) -> None:
    caveat = decode(example.encode())
    assert encode(caveat).decode() == example
    assert isinstance(caveat, App) if tag == "x:NAME" else json.loads(example)[0] == tag


@pytest.mark.parametrize("example", [example for example in EXAMPLES if "," in example])
def test_every_caveat_on_the_page_can_be_read(example: str) -> None:
    assert encode(decode(example.encode())).decode() == example


@pytest.mark.parametrize(("tag", "example", "meaning"), ROWS, ids=[row[0] for row in ROWS])
def test_every_example_clears_as_documented(tag: str, example: str, meaning: str) -> None:
    caveat = decode(example.encode())
    if meaning.startswith("never in a root"):
        with pytest.raises(CaveatUnmet):
            clear("acme", [caveat], ACCESS, POLICY)
        return
    clear("acme", [caveat], ACCESS, POLICY)
    if tag not in {"nbf", "exp", "sub"}:  # a fact that the access lacks is unknown, and denies
        with pytest.raises(CaveatUnmet):
            clear("acme", [caveat], Access(), Policy(organization="acme", clock=lambda: 1_700_000_000))


@pytest.mark.parametrize(
    ("path", "matches"),
    [("/v1/a", True), ("/v1/a/", True), ("/v1/a/b", True), ("/v1", False), ("/v1/", False)],
)
def test_globs_match_as_documented(path: str, *, matches: bool) -> None:
    assert f"`{path}`" in PAGE
    access = Access(method="GET", path=path)
    if matches:
        clear("acme", [Req(("*",), ("/v1/**",))], access, POLICY)
    else:
        with pytest.raises(CaveatUnmet):
            clear("acme", [Req(("*",), ("/v1/**",))], access, POLICY)


def test_a_listing_needs_every_prefix_as_documented() -> None:
    example = '["pre","object",{"*":"r","private/":""}]'
    assert example in PAGE
    caveat = decode(example.encode())
    clear("acme", [caveat], Access(action="r", resource={"object": "public/1"}), POLICY)
    for wanted in ("private/1", "/private/1", ANY):
        with pytest.raises(CaveatUnmet):
            clear("acme", [caveat], Access(action="r", resource={"object": wanted}), POLICY)


@pytest.mark.parametrize(
    ("prefix", "wanted", "matches"),
    [
        ("logs/", "logs/../secret", False),
        ("logs/", "logs/%2e%2e/secret", False),
        ("https://acme.com/", "https://acme.com/a", True),
        ("https://acme.com/", "https://acme.com//a", False),
    ],
)
def test_ambiguous_ids_are_denied_as_documented(prefix: str, wanted: str, *, matches: bool) -> None:
    assert f"`{prefix}`" in PAGE
    assert f"`{wanted}`" in PAGE
    access = Access(action="r", resource={"object": wanted})
    if matches:
        clear("acme", [Pre("object", {prefix: "r"})], access, POLICY)
    else:
        with pytest.raises(CaveatUnmet):
            clear("acme", [Pre("object", {prefix: "r"})], access, POLICY)
