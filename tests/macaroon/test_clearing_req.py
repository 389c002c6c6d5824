"""``req``: the methods and paths that clear, and the paths that are too ambiguous to clear."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.single_caveat import clears, denial
from tkdb.macaroon import clearing
from tkdb.macaroon.access import Access
from tkdb.macaroon.caveats import Req


@pytest.mark.parametrize(
    ("methods", "method", "expected"),
    [
        (("GET",), "GET", True),
        (("GET", "HEAD"), "HEAD", True),
        (("GET",), "HEAD", False),
        (("GET",), "get", False),
        (("GET",), "GET ", False),
        (("GET",), "", False),
        (("GET",), None, False),
        (("*",), "PURGE", True),
        (("*",), None, False),
        (("GET",), "*", False),
    ],
)
def test_methods_are_compared_exactly(methods: tuple[str, ...], method: str | None, *, expected: bool) -> None:
    assert clears(Req(methods, ("/a",)), Access(method=method, path="/a")) is expected


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("/", "/", True),
        ("/", "/a", False),
        ("/a", "/a", True),
        ("/a", "/A", False),
        ("/a", "/a/", False),
        ("/a/", "/a/", True),
        ("/a/", "/a", False),
        ("/a", "/ab", False),
        ("/a", "a", False),
        ("/a", "", False),
        ("/a", "*", False),
        ("/*", "/a", True),
        ("/*", "/", False),
        ("/*", "/a/b", False),
        ("/*", "/a/", False),
        ("/*/b", "/a/b", True),
        ("/*/b", "/a/c", False),
        ("/a/*/c", "/a/b/c", True),
        ("/a/*/c", "/a/b/x/c", False),
        ("/**", "/a", True),
        ("/**", "/a/b/c", True),
        ("/**", "/a/", True),
        ("/**", "/", False),
        ("/a/**", "/a/b", True),
        ("/a/**", "/a/b/c/d", True),
        ("/a/**", "/a", False),
        ("/a/**", "/a/", False),
        ("/a/**", "/ab/c", False),
        ("/*/**", "/a/b/c", True),
        ("/a", "/%61", False),  # compared as sent, so an escape doesn't match its character
        ("/%61", "/%61", True),
        ("/a/*", "/a/b%20c", True),
        ("/a/*", "/a/%c3%a4", True),
        ("/%E6%97%A5", "/%E6%97%A5", True),
        ("/a/*", "/a/%f0%9f%98%80", True),
        ("/a/*", "/a/..b", True),
        ("/a/*", "/a/.b", True),
        ("/a/*", "/a/...", True),
    ],
)
def test_a_glob_matches_whole_segments(glob: str, path: str, *, expected: bool) -> None:
    assert clears(Req(("GET",), (glob,)), Access(method="GET", path=path)) is expected


AMBIGUOUS = [
    "//", "//a", "/a//b", "/a/b//", "/.", "/..", "/./a", "/a/.", "/a/..", "/a/../b", "/a/./b", "/..;/a", "/a/..;x=1/b",
    "/.;/a", "/a/..;", "/a%2fb", "/a%2Fb", "/%2e", "/%2E%2e/a", "/a/%2e%2e/b", "/a%5cb", "/a%5Cb", "/a\\b", "/a%252fb",
    "/a%252e", "/a%00", "/a%3bb", "/a%3Fb", "/a%23b", "/a%c0%afb", "/a%C1%9cb", "/a%u002e", "/a%", "/a%zz", "/a%2",
    "/a%e0%80%afb", "/a%E0%9F%BFb", "/%e0%80%ae%e0%80%ae/a", "/a%f0%80%80%afb", "/%F0%80%80%AE./a", "/a%f0%8f%bf%bfb",
    "/a%f8%80%80%80%afb", "/a%fc%80%80%80%80%afb", "/a%ed%a0%80b", "/a%ed%af%80%ed%b0%af", "/a%f4%90%80%80", "/a%ff",
    "/a%fc", "/a%c3", "/a%c3/%a4", "/a%c3%28", "/a%80",
    "/a?b", "/a#b", "/a b", "/a\tb", "/a\n", "/a\x00b", "/a\x7f", "/é", "/a\u2215b",
    "/\uff0e\uff0e/a", "/\ud800",
]  # fmt: skip


@pytest.mark.parametrize("path", AMBIGUOUS, ids=ascii)
def test_a_path_that_routers_read_differently_never_matches(path: str) -> None:
    globs = ("/**", "/*", "/*/*", "/*/*/*", "/", "/*/", "/*/*/")
    assert "the request's path is ambiguous" in denial(Req(("*",), globs), Access(method="GET", path=path))


def test_without_the_check_of_utf_8_an_overlong_slash_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(method="GET", path="/a/..%e0%80%afsecret")
    assert not clears(Req(("GET",), ("/a/*",)), access)
    monkeypatch.setattr(clearing, "_unescaped", lambda text: text)
    assert clears(Req(("GET",), ("/a/*",)), access)


@given(st.text(st.sampled_from("ab/.%2eEfF5c;\\?# *"), max_size=12).map("/".__add__))
def test_a_path_that_clears_is_in_normal_form(path: str) -> None:
    """A router that decodes escapes once and removes dot segments never reaches another path's handler."""
    if not clears(Req(("*",), ("/**",)), Access(method="GET", path=path)):
        return
    segments = path[1:].split("/")
    assert "" not in segments[:-1]
    for segment in segments:
        decoded = segment.replace("%2e", ".").replace("%2E", ".").partition(";")[0]
        assert decoded not in {".", ".."}
        assert "/" not in segment.replace("%2f", "/").replace("%2F", "/")


def test_one_matching_glob_is_enough() -> None:
    caveat = Req(("GET",), ("/a", "/b/*"))
    assert clears(caveat, Access(method="GET", path="/a"))
    assert clears(caveat, Access(method="GET", path="/b/x"))
    assert "the request's path '/c' is none of those allowed" in denial(caveat, Access(method="GET", path="/c"))


def test_matching_is_linear() -> None:
    """The number of comparisons is linear in the length of the globs: the matcher never goes back."""
    compared = 0

    class Counted(str):
        __slots__ = ()

        def split(self, *_: Any, **__: Any) -> Any:
            return [CountedSegment(part) for part in str.split(self, "/")]

    class CountedSegment(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    path = Counted("/a" * 2_000)
    caveat = Req(("*",), ("/*" * 1_000 + "/**", "/a" * 1_000 + "/**", "/**", "/a/**"))
    assert clears(caveat, Access(method="GET", path=path))
    assert compared <= 2 * sum(glob.count("/") for glob in caveat.paths)
