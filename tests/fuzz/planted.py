"""A reader with a bug, for the runner's own test: it must be found."""

from __future__ import annotations

from tests.fuzz.target import Target
from tkdb.errors import MalformedToken


def read_planted(data: bytes) -> None:
    if not data.startswith(b"tkdb_"):
        raise MalformedToken("this is not a token's text")
    if data[5:6] == b"!":
        raise KeyError("planted")


TARGET = Target("planted", read_planted, (MalformedToken,), [b"tkdb_a"])
