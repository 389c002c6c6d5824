"""``pre``: no id clears if a store may read it as an id for which another prefix, or none, decides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.single_caveat import clears, denial
from tkdb.macaroon import clearing
from tkdb.macaroon.access import ANY, Access
from tkdb.macaroon.caveats import If, Pre

LOGS = Pre("object", {"logs/": "r"})
BUT_PRIVATE = Pre("object", {"*": "r", "private/": ""})
BUT_AUDIT = Pre("object", {"logs/": "r", "logs/audit/": ""})


def reading(wanted: object) -> Access:
    return Access(action="r", resource={"object": wanted})  # type: ignore[dict-item]


# Each of these begins with logs/, and a lenient store may read it as secret or as logs/audit/x.
AMBIGUOUS = [
    "logs/../secret", "logs/..", "logs/a/../../secret", "logs/./../secret", "logs/./audit/x", "logs//audit/x",
    "logs/a/..//../secret", "logs/..//secret", "logs/ ../secret", "logs/.. /secret", "logs/..;/secret",
    "logs/..;x=1/secret", "logs/..?secret", "logs/..#secret",
    "logs/..\\secret", "logs\\..\\secret", "logs/\\..\\..\\secret", "logs/a\\..\\..\\secret",
    "logs/%2e%2e/secret", "logs/.%2E/secret", "logs/%2e./secret", "logs/..%2fsecret", "logs/..%2Fsecret",
    "logs/%2faudit/x", "logs/%2e/audit/x", "logs/..%5csecret", "logs/..%5Csecret", "logs/%252e%252e/secret",
    "logs/..%252fsecret", "logs/%%32e%%32e/secret", "logs/%2%65%2%65/secret", "logs/..%20/secret", "logs/..%3b/secret",
    "logs/%61udit/x", "logs/audit%2fx", "logs/%61%75%64%69%74/x",
    "logs/..%c0%afsecret", "logs/..%C1%9csecret", "logs/%c0%ae%c0%ae/secret", "logs/..%e0%80%afsecret",
    "logs/%E0%80%AE./secret", "logs/..%f0%80%80%afsecret", "logs/..%f8%80%80%80%afsecret",
    "logs/..%fc%80%80%80%80%afsecret", "logs/..%u002fsecret", "logs/%u002e%U002e/secret",
    "logs/.\t./secret", "logs/.\n./secret", "logs/\r../secret", "logs/..\x00/secret", "logs/..%00/secret",
    "logs/.%09./secret", "logs/..\udcc0\udcafsecret",
]  # fmt: skip


@pytest.mark.parametrize("wanted", AMBIGUOUS, ids=ascii)
def test_an_ambiguous_id_matches_no_prefix(wanted: str) -> None:
    if wanted.startswith("logs/"):
        assert "ambiguous: a store may read it as another id" in denial(BUT_AUDIT, reading(wanted))
    else:
        assert not clears(BUT_AUDIT, reading(wanted))
    assert not clears(If((BUT_AUDIT,), ""), reading(wanted))
    assert not clears(Pre("object", {"*": "r", "secret": "", "logs/audit/": ""}), reading(wanted))


@pytest.mark.parametrize("wanted", [wanted for wanted in AMBIGUOUS if wanted.startswith("logs/")], ids=ascii)
def test_without_the_rule_an_ambiguous_id_leaves_its_prefix(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "_is_ambiguous", lambda *_: False)
    assert clears(LOGS, reading(wanted))
    assert [name for name in names(wanted) if not below("logs", name) or below("logs/audit", name)]


@pytest.mark.parametrize(
    "wanted",
    ["/private/x", "./private/x", "a/../private/x", "//private/x", "%70rivate/x", "private%2fx", "private\\x",
     "%2fprivate/x", "\\private\\x", "pri\nvate/x", "%c0%afprivate/x"],
    ids=ascii,
)  # fmt: skip
def test_no_spelling_of_an_id_avoids_the_longer_prefix(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not clears(BUT_PRIVATE, reading(wanted))
    assert any(below("private", name) for name in names(wanted))
    monkeypatch.setattr(clearing, "_is_ambiguous", lambda *_: False)
    assert clears(BUT_PRIVATE, reading(wanted))


def test_an_id_without_the_prefixes_first_slash_is_ambiguous() -> None:
    rooted = Pre("object", {"*": "r", "/private/": ""})
    assert clears(rooted, reading("/public/x"))
    assert not clears(rooted, reading("private/x"))


@pytest.mark.parametrize("wanted", [*(wanted for wanted in AMBIGUOUS if "%61" not in wanted), "/logs/x"], ids=ascii)
def test_an_ambiguous_id_needs_what_every_id_needs(wanted: str) -> None:
    """If every prefix allows the action, it doesn't matter which of them the store reads."""
    for ids in ({"*": "r"}, {"*": "r", "logs/": "rw"}, {"*": "rw", "logs/": "r"}):
        assert clears(Pre("object", ids), reading(wanted))
        assert clears(Pre("object", ids), reading(ANY))
        assert not clears(Pre("object", ids), Access(action="w", resource={"object": wanted}))


@pytest.mark.parametrize(
    "wanted", ["logs/a%2fb", "logs/a%2Fb", "logs/a%5Cb", "logs/a\\b", "logs/a%25b", "logs/a%c0%afb"]
)
def test_an_encoded_separator_matches_no_prefix_wherever_it_leads(wanted: str) -> None:
    assert "is ambiguous" in denial(LOGS, reading(wanted))


@pytest.mark.parametrize(
    "wanted",
    ["logs/", "logs/x", "logs/x/", "logs/.hidden", "logs/..x", "logs/x..", "logs/a..b/c", "logs/...", "logs/a b.txt",
     "logs/100%.txt", "logs/100% off", "logs/a%20b", "logs/%c3%a4", "logs/ä", "logs/日本", "logs/a;b", "logs/a?b#c",
     "logs/a+b=c&d", "logs/a:b@c", "logs/~", "logs/*"],
    ids=ascii,
)  # fmt: skip
def test_an_id_with_one_reading_matches(wanted: str) -> None:
    for ids in ({"logs/": "r"}, {"logs/": "r", "logs/audit/": ""}, {"*": "", "logs/": "r"}, {"log": "r"}):
        assert clears(Pre("object", ids), reading(wanted))


@pytest.mark.parametrize(
    ("prefix", "wanted", "expected"),
    [
        ("https://acme.com/", "https://acme.com/a", True),
        ("https://acme.com", "https://acme.com/a", True),
        ("https://acme.com/", "https://acme.com//a", False),
        ("https://acme.com/a/", "https://acme.com/a/../b", False),
        ("/data/", "/data/x", True),
        ("/data/", "/data/../x", False),
        ("a%2fb/", "a%2fb/c", True),
        ("a%2fb/", "a%2fb/%2e%2e/c", False),
        ("a\\b/", "a\\b/c", True),
        ("../a/", "../a/b", True),
        ("../a/", "../a/../b", False),
        ("logs/.", "logs/.hidden", True),
        ("logs/.", "logs/../secret", False),
        ("logs", "logs/../secret", False),
        ("user:", "user:5", True),
        ("user:", "user:5/../../x", False),
    ],
)
def test_a_prefix_is_meant_as_it_is_up_to_its_last_slash(prefix: str, wanted: str, *, expected: bool) -> None:
    assert clears(Pre("object", {prefix: "r"}), reading(wanted)) is expected


PARTS = ["a", "x", "logs", "private", "audit", "/", "/", ".", "..", "\\", "%2f", "%2e", "%5c", "%25", "%", "2", "e",
         "%c0%af", "%e0%80%af", "%f0%80%80%ae", "\t", "\x00", " ", ";", "?", "%70", "%c3%a4", "ä"]  # fmt: skip


@given(
    st.sampled_from(["logs/", "logs/a/", "", "/"]),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=7).map("".join),
)
def test_an_id_that_clears_stays_below_its_prefix_in_every_reading(start: str, end: str) -> None:
    wanted = start + end
    if clears(BUT_AUDIT, reading(wanted)):
        assert all(name == "logs" or below("logs", name) for name in names(wanted))
        assert not any(below("logs/audit", name) for name in names(wanted))
    if clears(BUT_PRIVATE, reading(wanted)):
        assert not any(below("private", name) for name in names(wanted))


@given(st.text(st.sampled_from("ab0_-./.%\\ \t;"), max_size=10))
def test_no_plain_id_has_an_unsafe_part(wanted: str) -> None:
    if clearing._PLAIN_ID(wanted):
        assert not clearing._UNSAFE_ID(wanted, 0)


def names(wanted: str) -> Iterator[str]:
    """Yield the names of the objects that lenient stores may find under an id."""
    for escapes, backslashes, cut in product(range(3), (False, True), (False, True)):
        text = wanted
        for _ in range(escapes):
            text = lenient(text)
        text = re.sub("[\t\r\n]", "", text)
        text = text.partition("\x00")[0] if cut else text.replace("\x00", "")
        text = text.replace("\\", "/") if backslashes else text
        found: list[str] = []
        for part in text.split("/"):
            bare = re.split("[;?#]", part)[0].strip(" ")
            if bare == "..":
                found[-1:] = []
            elif part.strip(" ") not in {"", "."}:
                found.append(part)
        yield "/".join(found)


def lenient(text: str) -> str:
    """Decode escapes once, and read overlong UTF-8 as the characters that it stands for."""
    text = re.sub("%[uU]([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    raw = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    for lead, size in ((0xC0, 2), (0xE0, 3), (0xF0, 4), (0xF8, 5), (0xFC, 6)):
        middle = b"[\x80]" * (size - 3) + b"[\x80\x81]" if size > 2 else b""
        shape = (b"[\xc0\xc1]" if size == 2 else bytes([lead]) + middle) + b"[\x80-\xbf]"
        raw = re.sub(shape, lambda match: bytes([((match[0][-2] & 1) << 6) | (match[0][-1] & 0x3F)]), raw)
    return raw.decode("utf-8", "surrogateescape")


def below(folder: str, name: str) -> bool:
    return name.startswith(f"{folder}/")
