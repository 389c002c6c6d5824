"""The probe: it finds out by trial whether an object store honours the conditions that a lease needs.

>>> import asyncio, secrets
>>> from tkdb_replication.bucket.objects import MemoryObjects
>>> asyncio.run(check_store(MemoryObjects(now_ms=lambda: 0), random_bytes=secrets.token_bytes))

A store that ignores a condition answers like one that honours it, until two machines are primary at the same time. So
the probe races writes before anything depends on them. It can prove a fault, but never that there is none: a store that
fails once in many rounds may pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from tkdb import errors
from tkdb_replication.bucket.objects import Conflict, Found, Missing, NotModified, Objects, Stored, Unknown

PREFIX: Final = "probe/"
ROUNDS: Final = 6
RACERS: Final = 8

Trial: TypeAlias = Callable[["_Probe"], Coroutine[Any, Any, None]]
T = TypeVar("T")

_HINT: Final = (
    "use a bucket with conditional writes and strong reads; on Tigris, a single-region or multi-region bucket"
)


async def check_store(
    objects: Objects,
    *,
    random_bytes: Callable[[int], bytes],
    rounds: int = ROUNDS,
    racers: int = RACERS,
    timeout_ms: int = 15_000,
) -> None:
    """Check that a bucket honours conditional writes and that a read returns the last write. It uses new objects
    only.

    All trials run concurrently, each on its own object, because a machine far from its store can't lead before they
    have ended.

    Args:
        objects: the bucket.
        random_bytes: for the objects' keys, and for bodies that are all different.
        rounds: the number of races of each kind.
        racers: the number of writes in each race.
        timeout_ms: the timeout of each request.

    Raises:
        UnfitObjectStore: the store breaks a condition. The message names it.
        Unavailable: a request got no usable answer, so nothing is known.
    """

    async def tried(trial: Trial) -> None:
        probe = _Probe(objects, PREFIX + random_bytes(16).hex(), random_bytes, timeout_ms)
        try:
            await trial(probe)
        except errors.TkdbError:
            await probe.forget()
            raise
        await probe.forget()

    races: list[Trial] = [partial(race, racers=racers) for race in (_Probe.overwriting, _Probe.creating)]
    await _all(tried(trial) for trial in (_Probe.conditions, *races * rounds))


class _Probe:
    """One object, on which conditions are tried."""

    def __init__(self, objects: Objects, key: str, random_bytes: Callable[[int], bytes], timeout_ms: int) -> None:
        self.key = key
        self._objects = objects
        self._random_bytes = random_bytes
        self._timeout_ms = timeout_ms

    async def conditions(self) -> None:
        """Try each condition separately, both where it holds and where it doesn't. Then delete the object."""
        await self._expect_missing("an object that was never written is found")
        first = await self._put("a put with If-None-Match: * where nothing is was refused", None)
        await self._expect_refusal("If-None-Match: * doesn't keep an object from being overwritten", None)
        await self._expect(first, "a read right after a write doesn't see it")
        if not isinstance(await self._get(first[1]), NotModified):
            raise _unfit("If-None-Match with an object's own ETag on a read gives it again")
        await self._expect_refusal("If-Match with another ETag doesn't keep an object from being overwritten", '"0"')
        second = await self._put("a put with If-Match and the object's own ETag was refused", first[1])
        await self._expect_refusal(
            "If-Match with an earlier ETag doesn't keep an object from being overwritten", first[1]
        )
        if not isinstance(await self._get(first[1]), Found):
            raise _unfit("a read with an earlier ETag doesn't see a later write")
        await self._expect(second, "a read right after an overwrite doesn't see it")
        await self._deletion()

    async def overwriting(self, racers: int) -> None:
        """Let several writes replace the same version: one may succeed."""
        _, etag = await self._put("a put with If-None-Match: * where nothing is was refused", None)
        await self._race(racers, etag, "If-Match")

    async def creating(self, racers: int) -> None:
        """Let several writes create the object: one may succeed. It was deleted before, because a store may
        remember that."""
        await self._put("a put with If-None-Match: * where nothing is was refused", None)
        await self._deletion()
        await self._race(racers, None, "If-None-Match: *")

    async def forget(self) -> None:
        """Delete the object, if the store answers. A cancelled caller doesn't wait for the store: `tkdb gc` deletes
        the rest."""
        await self._objects.delete(self.key, timeout_ms=self._timeout_ms)

    async def _deletion(self) -> None:
        """Delete the object, and read it."""
        outcome = await self._objects.delete(self.key, timeout_ms=self._timeout_ms)
        if isinstance(outcome, Unknown):
            raise _unanswered(outcome)
        await self._expect_missing("a read right after a deletion still finds the object")

    async def _race(self, racers: int, etag: str | None, condition: str) -> None:
        bodies = [self._random_bytes(16) for _ in range(racers)]
        outcomes = await _all(self._swap(body, etag) for body in bodies)
        swaps = zip(bodies, outcomes, strict=True)
        winners = [(body, outcome.etag) for body, outcome in swaps if isinstance(outcome, Stored)]
        if len(winners) != 1:
            raise _unfit(f"of {racers} racing puts with {condition}, {len(winners)} succeeded, and only one may")
        await self._expect(winners[0], f"a read after racing puts with {condition} doesn't see the one that succeeded")

    async def _put(self, fault: str, etag: str | None) -> tuple[bytes, str]:
        body = self._random_bytes(16)
        outcome = await self._swap(body, etag)
        if not isinstance(outcome, Stored):
            raise _unfit(fault)
        return body, outcome.etag

    async def _expect_refusal(self, fault: str, etag: str | None) -> None:
        if not isinstance(await self._swap(self._random_bytes(16), etag), Conflict):
            raise _unfit(fault)

    async def _expect(self, written: tuple[bytes, str], fault: str) -> None:
        found = await self._get()
        if not isinstance(found, Found) or (found.body, found.etag) != written:
            raise _unfit(fault)

    async def _expect_missing(self, fault: str) -> None:
        if not isinstance(await self._get(), Missing):
            raise _unfit(fault)

    async def _swap(self, body: bytes, etag: str | None) -> Stored | Conflict:
        if etag is None:
            outcome = await self._objects.put(self.key, body, if_none_match="*", timeout_ms=self._timeout_ms)
        else:
            outcome = await self._objects.put(self.key, body, if_match=etag, timeout_ms=self._timeout_ms)
        if isinstance(outcome, Unknown):
            raise _unanswered(outcome)
        return outcome

    async def _get(self, etag: str | None = None) -> Found | NotModified | Missing:
        outcome = await self._objects.get(self.key, if_none_match=etag, timeout_ms=self._timeout_ms)
        if isinstance(outcome, Unknown):
            raise _unanswered(outcome)
        return outcome


async def _all(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all parts concurrently, and return their results.

    Raises:
        UnfitObjectStore: a part found a fault. It is raised once all parts have ended, even if another part had no
            answer.
        Unavailable: a part had no answer.
    """
    ended = await asyncio.gather(*parts, return_exceptions=True)
    faults = [each for each in ended if isinstance(each, BaseException)]
    if faults:
        raise next((each for each in faults if isinstance(each, errors.UnfitObjectStore)), faults[0])
    return [each for each in ended if not isinstance(each, BaseException)]


def _unanswered(outcome: Unknown) -> errors.Unavailable:
    return errors.Unavailable(
        f"the object store can't be checked: {outcome.message}",
        hint="check its address, its credentials and the bucket's name",
    )


def _unfit(fault: str) -> errors.UnfitObjectStore:
    return errors.UnfitObjectStore(f"the object store is not fit for a lease: {fault}", hint=_HINT)
