"""The head's object in the bucket, as the commands read, create and replace it. Machines have other rules for it.

match await read_head(objects, keys):
    case Sound(head): ...
    case Damaged(error): ...
    case Absent(): ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tkdb import errors
from tkdb_replication.bucket.objects import Conflict, Found, Missing, Objects, Stored, Unknown
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.protocol.head import NOBODY, Head, HeadKeys, decode_head, encode_head

TIMEOUT_MS: Final = 5_000
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Sound:
    """A valid head."""

    head: Head
    body: bytes = field(repr=False)
    etag: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """An object that isn't a head, or isn't this cluster's."""

    error: errors.BrokenHead
    body: bytes = field(repr=False)
    etag: str


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no head."""


async def read_head(objects: Objects, keys: HeadKeys) -> Sound | Damaged | Absent:
    """Return the object at the head's key.

    Raises:
        Unavailable: the object store gave no usable answer.
    """
    match await objects.get(HEAD_KEY, timeout_ms=TIMEOUT_MS):
        case Found(body, etag):
            try:
                return Sound(decode_head(body, keys), body, etag)
            except errors.BrokenHead as error:
                return Damaged(error, body, etag)
        case Missing():
            return Absent()
        case Unknown() as outcome:
            raise unavailable(outcome)
    raise AssertionError("a read without a condition has these outcomes only")


async def put_head(objects: Objects, head: Head, keys: HeadKeys, *, over: Sound | Damaged | Absent) -> None:
    """Put ``head`` in place of the object that was read, or where there was none.

    An unknown outcome is resolved by reading. Then the put is repeated, with the same bytes and condition.

    Raises:
        Conflict: the object has changed.
        OutcomeUnknown: the object store gave no answer that shows whether the put succeeded.
    """
    body = encode_head(head, keys)
    for _ in range(_TRIES):
        outcome = await _put(objects, body, over)
        if isinstance(outcome, Stored):
            return
        # Not even a conflict is an answer: a proxy may have repeated a put that succeeded.
        found = await objects.get(HEAD_KEY, timeout_ms=TIMEOUT_MS)
        if isinstance(found, Found) and found.body == body:
            return
        if isinstance(outcome, Conflict):
            raise errors.Conflict("another head was put at the same time, so nothing was changed", hint=_LOOK)
    raise errors.OutcomeUnknown("it is unknown whether the head was put", hint=_LOOK)


async def _put(objects: Objects, body: bytes, over: Sound | Damaged | Absent) -> Stored | Conflict | Unknown:
    if isinstance(over, Absent):
        return await objects.put(HEAD_KEY, body, if_none_match="*", timeout_ms=TIMEOUT_MS)
    return await objects.put(HEAD_KEY, body, if_match=over.etag, timeout_ms=TIMEOUT_MS)


def describe(head: Head) -> str:
    """Return a head in words: its epoch, its entry, and its primary.

    >>> from tkdb_replication.protocol.head import BEGINNING, first_head
    >>> describe(first_head(journal=b"j" * 16, attempt=b"a" * 16, owner=NOBODY, base="b", place=BEGINNING, epoch=1))
    'epoch 1, entry 0, without a primary'
    """
    who = "without a primary" if head.owner == NOBODY else f"primary {head.machine or '?'} in {head.region or '?'}"
    return f"epoch {head.epoch}, entry {head.seq}, {who}"


def unavailable(outcome: Unknown) -> errors.Unavailable:
    """Return the error for a request with an unknown outcome."""
    return errors.Unavailable(
        f"the bucket can't be used: {outcome.message}",
        hint="check AWS_ENDPOINT_URL_S3, the credentials and BUCKET_NAME, and try again",
    )


_LOOK: Final = "run the command again: it reports the current state"
