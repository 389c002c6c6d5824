"""The time of a revocation: until it is acknowledged, and from then until every replica refuses the token."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Sequence

from bench.caller import Caller
from bench.rows import Row
from tests.end_to_end.node import Node
from tests.regions.cluster import Cluster
from tkdb import errors
from tkdb.macaroon.token import Macaroon
from tkdb_client import AsyncClient
from tkdb_replication.bucket.objects import Found, Stored
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket

ANSWER_MS = 10_000
LOOK_AGAIN_S = 0.005
WITHIN_A_POLL_S = 0.25
"""The range of the random delay before a revocation, so that it happens at any moment between two reads of the head."""


def acknowledged(cluster: Cluster, bucket: Bucket, kid: bytes, rounds: int) -> list[Row]:
    """Return how long one revocation takes, sent alone,
    and how long a bare swap of an object of the head's size takes."""
    revoked, put = asyncio.run(_acknowledged(cluster.nodes[cluster.settled()], bucket, kid, rounds))
    return [*percentiles("acknowledged", revoked, "tkdb"), *percentiles("acknowledged", put, "conditional PUT")]


async def _acknowledged(primary: Node, bucket: Bucket, kid: bytes, rounds: int) -> tuple[list[float], list[float]]:
    revoked, put = [], []
    async with S3Objects(bucket, now_ms=lambda: time.time_ns() // 1_000_000) as objects:
        first = await objects.put("bench", b"", timeout_ms=ANSWER_MS)
        assert isinstance(first, Stored)
        etag = first.etag
        with Caller(primary) as caller:
            for _ in range(rounds):
                began_s = time.perf_counter()
                caller.revoke(kid)
                revoked.append(_ms_since(began_s))
                head = await objects.get(HEAD_KEY, timeout_ms=ANSWER_MS)
                assert isinstance(head, Found)
                body = os.urandom(len(head.body))
                began_s = time.perf_counter()
                stored = await objects.put("bench", body, if_match=etag, timeout_ms=ANSWER_MS)
                put.append(_ms_since(began_s))
                assert isinstance(stored, Stored)
                etag = stored.etag
    return revoked, put


def refused(cluster: Cluster, rounds: int) -> list[Row]:
    """Return how long after a revocation's acknowledgement each replica refuses the token for the first time."""
    return percentiles("refused", asyncio.run(_refused(cluster, rounds)), "tkdb")


async def _refused(cluster: Cluster, rounds: int) -> list[float]:
    primary, draw, took_ms = cluster.settled(), random.Random(3), []
    async with cluster.nodes[primary].async_client() as signer:
        replicas = [node.async_client(signer=None) for name, node in cluster.nodes.items() if name != primary]
        for _ in range(rounds):
            token = await signer.mint("acme")
            for replica in replicas:
                await replica.verify(token)
            looking = [asyncio.create_task(_first_refusal_s(replica, token)) for replica in replicas]
            await asyncio.sleep(draw.uniform(0, WITHIN_A_POLL_S))
            await signer.revoke(token)
            acknowledged_s = time.perf_counter()
            took_ms += [max(1_000 * (await look - acknowledged_s), 0.0) for look in looking]
        for replica in replicas:
            await replica.close()
    return took_ms


async def _first_refusal_s(replica: AsyncClient, token: Macaroon) -> float:
    while True:
        try:
            await replica.verify(token)
        except errors.RevokedToken:
            return time.perf_counter()
        await asyncio.sleep(LOOK_AGAIN_S)


def percentiles(what: str, took_ms: Sequence[float], who: str) -> list[Row]:
    """Return the median and the 99th percentile, by nearest rank.

    >>> [row.value for row in percentiles("nap", [float(ms) for ms in range(1, 101)], "cat")]
    [50.0, 99.0]
    """
    ordered, count = sorted(took_ms), len(took_ms)
    return [
        Row(f"{what} p{percent}", count, who, round(ordered[math.ceil(count * percent / 100) - 1], 1), "ms")
        for percent in (50, 99)
    ]


def _ms_since(began_s: float) -> float:
    return 1_000 * (time.perf_counter() - began_s)
