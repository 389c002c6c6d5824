"""The probes of the bucket: concurrent conditional writes, reads with our credentials, and reads without any.

The writes go to a separate object, which is deleted afterwards (`tkdb_replication.bucket.conformance`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec

from tkdb import errors
from tkdb_ops.doctor.findings import Absent, NotAsked, Unlearned
from tkdb_ops.doctor.machines import Dated
from tkdb_ops.doctor.store import Examined, Location, Readable, location
from tkdb_replication.bucket import http
from tkdb_replication.bucket.conformance import check_store
from tkdb_replication.bucket.objects import Objects, Unknown
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.bucket.sigv4 import encode_path, sign
from tkdb_replication.cluster.head_object import Absent as NoHead
from tkdb_replication.cluster.head_object import Damaged, Sound, read_head
from tkdb_replication.protocol.head import HeadKeys

TIGRIS: Final = ("tigris.dev", "storage.dev")
"""The domains of Tigris's endpoints."""
TIMEOUT_MS: Final = 10_000


async def examine(
    bucket: Bucket,
    keys: HeadKeys | None,
    *,
    now_ms: Callable[[], int],
    random_bytes: Callable[[int], bytes],
) -> Examined:
    """Run all probes on ``bucket``, and return the facts.

    Args:
        bucket: its address, and our credentials.
        keys: the keys that authenticate its head. If None, the head isn't read.
        now_ms: the wall clock, ms since 1970.
        random_bytes: the source of the probe's random bytes.
    """
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        return Examined(
            fit=await _fit(objects, random_bytes),
            location=await _location(bucket, now_ms),
            readable=await _readable(bucket),
            clock=await _clock(objects, now_ms),
            head=NotAsked("TKDB_SEAL_KEYS isn't set") if keys is None else await _head(objects, keys),
        )


async def _fit(objects: Objects, random_bytes: Callable[[int], bytes]) -> errors.UnfitObjectStore | Unlearned | None:
    try:
        await check_store(objects, random_bytes=random_bytes)
    except errors.UnfitObjectStore as error:
        return error
    except errors.Unavailable as error:
        return Unlearned(error.message)
    return None


async def _head(objects: Objects, keys: HeadKeys) -> Sound | Damaged | NoHead | Unlearned:
    try:
        return await read_head(objects, keys)
    except errors.Unavailable as error:
        return Unlearned(error.message)


async def _clock(objects: Objects, now_ms: Callable[[], int]) -> Dated | Unlearned:
    sent_ms = now_ms()
    came = await objects.get(HEAD_KEY, timeout_ms=TIMEOUT_MS)
    if isinstance(came, Unknown) or came.date_ms is None:
        return Unlearned(came.message if isinstance(came, Unknown) else "the bucket's answers have no Date")
    way_ms = (now_ms() - sent_ms) // 2
    # Date contains whole seconds, rounded down. So the bucket's time was half a second later, within half a second.
    return Dated("the bucket", came.date_ms + 500 - (sent_ms + way_ms), way_ms + 500)


async def _readable(bucket: Bucket) -> Readable | Unlearned:
    """Ask for the head and for a list without a signature, as anyone can, and return what could be read."""
    found = []
    for what, target in (("the head", f"/{HEAD_KEY}"), ("the list of objects", "?list-type=2&max-keys=1")):
        path = encode_path(f"/{bucket.name}")
        came = await http.ask("GET", bucket.endpoint, path + target, timeout_ms=TIMEOUT_MS)
        if isinstance(came, http.NoResponse):
            return Unlearned(came.why)
        if came.status == HTTPStatus.OK:
            found.append(what)
        elif what == "the head" and came.status == HTTPStatus.NOT_FOUND:
            # A closed bucket gives a caller without a key the same answer, whether the object exists or not.
            found.append("which objects there are")
    return Readable(tuple(found))


class _Metadata(msgspec.Struct):
    """Tigris's metadata of a bucket, as Tigris's SDK reads it (``GET /<bucket>?metadata``)."""

    object_regions: str | None = None


async def _location(bucket: Bucket, now_ms: Callable[[], int]) -> Location | Absent:
    if not is_tigris(bucket.endpoint.host):
        return NotAsked("the location of this store's bucket isn't known: only Tigris can be asked")
    return await tigris_location(bucket, now_ms)


def is_tigris(host: str) -> bool:
    """Return True if the endpoint belongs to Tigris."""
    return any(host == each or host.endswith(f".{each}") for each in TIGRIS)


async def tigris_location(bucket: Bucket, now_ms: Callable[[], int]) -> Location | Unlearned:
    """Ask Tigris for the regions in which it keeps the bucket."""
    path, query = encode_path(f"{bucket.endpoint.prefix}/{bucket.name}"), {"metadata": ""}
    headers: Mapping[str, str] = {"host": bucket.endpoint.host_header, "accept": "application/json"}
    signed = sign(
        "GET", path, query, headers, b"", credentials=bucket.credentials, region=bucket.region, now_ms=now_ms()
    )
    came = await http.ask("GET", bucket.endpoint, f"/{bucket.name}?metadata=", headers=signed, timeout_ms=TIMEOUT_MS)
    if isinstance(came, http.NoResponse):
        return Unlearned(came.why)
    try:
        if came.status == HTTPStatus.OK:
            return location(msgspec.json.decode(came.body, type=_Metadata).object_regions)
    except msgspec.DecodeError:
        pass
    return Unlearned(f"Tigris didn't return the bucket's location ({came.status}): `fly storage dashboard` shows it")
