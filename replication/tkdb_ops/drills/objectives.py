"""The objectives of a drill: limits, by name, and the file ``drills.toml`` that changes them. Pure.

The default limits are the budgets in docs/performance.md. A file may set other limits for all drills, or for one drill.
No file can allow the loss of an acknowledged write, or the acceptance of a revoked token.

>>> limits = read('''
... [objectives]
... writes_back_ms = 20_000
...
... [drills.primary-killed]
... writes_back_ms = 12_000
... ''', ["primary-killed", "store-down"])
>>> limits.objectives("primary-killed", {}).writes_back_ms, limits.objectives("store-down", {}).writes_back_ms
(12000, 20000)
>>> read("[objectives]\\nlost_writes = 1", [])
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: drills.toml can't be used: lost_writes is always 0: remove it
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final

import msgspec

from tkdb.errors import ConfigurationError

Limit = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The upper limit of each figure. The limits in ``ALWAYS`` are always 0.

    Attributes:
        failed_reads: verifications and mints that ended without an answer from the client.
        longest_read_ms: the duration of the longest verification or mint.
        reads_back_ms: the time from the fault until reads are answered again in every region. If no machine could
            answer, the time counts from when a machine can answer again.
        writes_back_ms: the longest time that a write waited, with repetitions, until it was acknowledged.
        revoked_p99_ms: the time from a revocation's acknowledgement until every region refuses the token, p99.
        lost_writes: acknowledged writes that some machine doesn't have at the end.
        stale_accepts: calls that accepted a revoked token, and began later than its acknowledgement plus the bound.
        blind_accepts: tokens that were accepted for a caller who had reached no machine that reads the object store for
            longer than the bound.
        wrong_denials: denials of a token that nobody revoked.
        two_writers: epochs in which two machines reported that they were primary.
        unsound_journals: journals that don't pass the audit.
        undone_steps: steps that the drill couldn't carry out, such as the start of a machine that didn't come back.
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
"""The objectives of every drill that no file can change."""

USUAL: Final = ("failed_reads", "longest_read_ms", "reads_back_ms", "writes_back_ms", "revoked_p99_ms")
"""The other objectives, which a file or a drill can change."""


class Limits(msgspec.Struct, frozen=True):
    """The limits in a file: for every drill, and for each single drill."""

    every: Mapping[str, int] = {}
    each: Mapping[str, Mapping[str, int]] = {}

    def objectives(self, drill: str, own: Mapping[str, int]) -> Objectives:
        """Return the objectives of a drill.

        The drill's ``own`` limits override the defaults, and the limits that the file sets for all drills. Only the
        limits that the file sets for this drill override the drill's own.
        """
        return Objectives(**{**self.every, **own, **self.each.get(drill, {})})


def read(text: str, drills: Collection[str]) -> Limits:
    """Return the limits in a ``drills.toml``.

    Args:
        text: the text of the file.
        drills: the names of all drills.

    Raises:
        ConfigurationError: the text isn't TOML, or contains an unknown name or an invalid limit.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(f"it isn't TOML: {error}") from None
    every, each = document.pop("objectives", {}), document.pop("drills", {})
    if document:
        raise _wrong(f"it has [{next(iter(document))}]", "use only [objectives] and [drills.NAME]")
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
            raise _wrong(f"{name} is always 0", "remove it")
    try:
        msgspec.convert(table, Objectives)
    except msgspec.ValidationError as error:
        raise _wrong(f"[{where}]: {error}", f"set only {' '.join(USUAL)}, each to a whole number") from None
    return table


def _wrong(why: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(f"drills.toml can't be used: {why}", hint=hint)
