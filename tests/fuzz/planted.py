"""A reader with a bug that the fuzzer must find, for the test of the fuzzer."""

from __future__ import annotations

from tests.fuzz.target import Target
from tkdb.errors import MalformedToken


def read_planted(data: bytes) -> None:
    if not data.startswith(b"tkdb_"):
        raise MalformedToken("this is not a token's text")
    if data[5:6] == b"!":
        raise KeyError("planted")


TARGET = Target("planted", read_planted, (MalformedToken,), [b"tkdb_a"])
