"""What a drill has to reach: limits, by name, and the file ``drills.toml`` that changes them. Pure.

The limits that hold unless something else is said are the budgets of docs/performance.md. A file may set any other for
all drills, or for one; nothing lets an acknowledged write be lost, or a revoked token be accepted.

>>> limits = read('''
... [objectives]
... writes_back_ms = 20_000
...
... [drills.primary-killed]
... writes_back_ms = 12_000
... ''', ["primary-killed", "store-down"])
>>> limits.of("primary-killed", {}).writes_back_ms, limits.of("store-down", {}).writes_back_ms
(12000, 20000)
>>> read("[objectives]\\nlost_writes = 1", [])
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: drills.toml can't be used: lost_writes is always 0: take it out
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final

import msgspec

from tkdb.errors import ConfigurationError

Limit = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The most that each figure may be. Those in ``ALWAYS`` are 0 in any case.

    Attributes:
        failed_reads: verifications and mints that ended without an answer, by the client.
        longest_read_ms: the longest of them.
        reads_back_ms: from the fault until reads are answered again in every region; where nobody could have
            answered, from its end.
        writes_back_ms: the same of writes.
        revoked_p99_ms: from a revocation's acknowledgement until every region refuses the token, p99.
        lost_writes: acknowledged, and unknown to a machine at the end.
        stale_accepts: a revoked token was accepted by a call that began after acknowledgement plus bound.
        blind_accepts: a token was accepted for a caller who had reached nobody that reads the object store for longer
            than the bound.
        wrong_denials: a token that nobody revoked was denied.
        two_writers: epochs in which two machines said that they were primary.
        unsound_journals: journals that don't pass the audit.
        undone_steps: what the drill was to do and couldn't: a machine that didn't come back, for one.
    """

    failed_reads: Limit = 0
    longest_read_ms: Limit = 2_000
    reads_back_ms: Limit = 2_000
    writes_back_ms: Limit = 15_000
    revoked_p99_ms: Limit = 1_000
    lost_writes: Limit = 0
    stale_accepts: Limit = 0
    blind_accepts: Limit = 0
    wrong_denials: Limit = 0
    two_writers: Limit = 0
    unsound_journals: Limit = 0
    undone_steps: Limit = 0


ALWAYS: Final = (
    "lost_writes",
    "stale_accepts",
    "blind_accepts",
    "wrong_denials",
    "two_writers",
    "unsound_journals",
    "undone_steps",
)
"""What every drill is judged by, and no file changes."""

USUAL: Final = ("failed_reads", "longest_read_ms", "reads_back_ms", "writes_back_ms", "revoked_p99_ms")
"""What drills are judged by besides, where their fault leaves it possible."""


class Limits(msgspec.Struct, frozen=True):
    """What a file says: for all drills, and for each."""

    every: Mapping[str, int] = {}
    each: Mapping[str, Mapping[str, int]] = {}

    def of(self, drill: str, own: Mapping[str, int]) -> Objectives:
        """Return the objectives of a drill, whose ``own`` limits go before the usual ones, and the file's before both.

        A limit that a drill widens by itself, as its fault makes it longer, isn't narrowed by what the file says for
        all drills; only by what it says for this one.
        """
        return Objectives(**{**self.every, **own, **self.each.get(drill, {})})


def read(text: str, drills: Collection[str]) -> Limits:
    """Return what ``drills.toml`` says.

    Args:
        text: the file's.
        drills: the names that there are.

    Raises:
        ConfigurationError: it isn't TOML, or names what there isn't.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(f"it isn't TOML: {error}") from None
    every, each = document.pop("objectives", {}), document.pop("drills", {})
    if document:
        raise _wrong(f"it has [{next(iter(document))}]", "it takes [objectives] and [drills.NAME]")
    if not isinstance(each, dict):
        raise _wrong("drills isn't a table", "write [drills.NAME]")
    for name in each:
        if name not in drills:
            raise _wrong(f"there is no drill {name!r:.40}", "see `tkdb drill list`")
    return Limits(_checked(every, "objectives"), {name: _checked(own, f"drills.{name}") for name, own in each.items()})


def _checked(table: Any, where: str) -> dict[str, int]:
    if not isinstance(table, dict):
        raise _wrong(f"{where} isn't a table", f"write [{where}]")
    for name in table:
        if name in ALWAYS:
            raise _wrong(f"{name} is always 0", "take it out")
    try:
        msgspec.convert(table, Objectives)
    except msgspec.ValidationError as error:
        raise _wrong(f"[{where}]: {error}", f"there are {' '.join(USUAL)}, each a whole number") from None
    return table


def _wrong(why: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(f"drills.toml can't be used: {why}", hint=hint)
