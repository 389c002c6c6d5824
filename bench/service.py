"""A bench of one whole node: how many verifications it answers, how soon it is ready, and how much memory it takes.

The node is a process on one core, with a database in a file. The load comes from the other core, over kept-alive
connections, as Noise messages that are sealed before. Every answer is opened and checked, outside the measured time.

- ``single verifies``: requests a second with one token each. For comparison, a bare echo by Starlette on Hypercorn runs
  in turns with it, with bodies of the same size.
- ``batched verifies``: tokens a second in requests with 100 tokens.
- ``ready``: the time from the process's start to 200 from ``/readyz``, with an empty database (the median) and with a
  full one (once).
- ``memory``: the memory of a node with the full database once it is ready, and after all these verifications.

Run ``python -m bench.service [--json] [--quick]``. It takes about two minutes, mostly to fill the database.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.filled import LIFETIME_S, Owner, Secrets, fill
from bench.load import ask, post
from bench.node import LOAD_CORE, Process, on_core
from bench.rows import Row, arguments, emit
from bench.tokens import caveats
from tkdb import api
from tkdb.channel.client import Initiator, Sealed
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.journal.seal import ChainKey, SealKey
from tkdb.macaroon.mint import mint

NAME = "tkdb.acme.example"
CAVEATS = 5
BATCH = 100


class Scale(NamedTuple):
    """The amounts of the bench."""

    organizations: int
    revocations: int
    tokens: int
    singles: int
    batches: int
    rounds: int
    starts: int
    connections: int


WHOLE = Scale(100_000, 1_000_000, tokens=20_000, singles=2_000, batches=200, rounds=5, starts=5, connections=32)
QUICK = Scale(20, 2_000, tokens=200, singles=20, batches=2, rounds=1, starts=1, connections=4)


class Deployment:
    """An authority's keys, the environment of its node, and a caller that knows the authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority, signer = AuthoritySecret.generate(os.urandom), SignerSecret.generate(os.urandom)
        self.secrets = Secrets(SealKey(os.urandom(32)), ChainKey(os.urandom(32)), signer)
        self._environment = {
            "TKDB_NAME": NAME,
            "TKDB_AUTHORITY_KEY": authority.text(),
            "TKDB_SEAL_KEYS": self.secrets.seal_key.text(),
            "TKDB_SIGNERS": f'[[signer]]\nname = "s"\nkey = "{signer.public.text()}"\n'
            'organizations = ["*"]\nmay = ["mint"]',
            "TKDB_DRAIN_MS": "0",
            "TKDB_LOG_LEVEL": "warning",
        }
        identity = AuthorityIdentity(NAME, (authority.public,))
        self._initiator = Initiator(identity, signer=None, random=os.urandom)

    def node(self, database: Path) -> Process:
        """Start a node."""
        return Process("tkdb.cli", "serve", environment={**self._environment, "TKDB_DB": str(database)})

    def seal(self, call: api.Verify) -> Sealed:
        """Return a sealed request with the present time. It is valid for 30 s."""
        now_ms = time.time_ns() // 1_000_000
        return self._initiator.seal(api.VERIFY, api.encode(call), request_id=os.urandom(16), now_ms=now_ms)


class Load:
    """Verify requests for tokens that are drawn from a pool of many lineages and organizations."""

    def __init__(self, deployment: Deployment, owners: list[Owner], tokens: int) -> None:
        self._deployment = deployment
        self._draw = random.Random(2)
        now_ms = time.time_ns() // 1_000_000
        self._pool = [
            mint(
                NAME,
                owner.root_key,
                kid=owner.kid,
                time_ms=now_ms,
                random=os.urandom(10),
                caveats=caveats(CAVEATS, now_ms // 1_000 + LIFETIME_S - index),
            ).text
            for index, owner in enumerate(self._draw.choices(owners[:1_000], k=tokens))
        ]

    def per_second(self, port: int, *, requests: int, bundles: int, connections: int) -> float:
        """Send ``requests`` requests, each with ``bundles`` bundles. Return the number of requests a second."""
        calls = [api.Verify(self._draw.sample(self._pool, bundles)) for _ in range(requests)]
        sealed = list(map(self._deployment.seal, calls))
        took_s, bodies = ask(port, [_wire(one) for one in sealed], connections=connections)
        for call, one, body in zip(calls, sealed, bodies, strict=True):
            verified = api.decode_result(call, api.decode_answer(one.open(body)))
            assert len(verified.results) == bundles
            assert all(isinstance(result, api.Valid) for result in verified.results)
        return requests / took_s


def _wire(sealed: Sealed) -> bytes:
    return post(api.VERIFY, sealed.message, sealed.headers)


def throughput(node: Process, echo: Process, load: Load, scale: Scale) -> list[Row]:
    """Return the best round of single verifies, of batches, and of the echo that runs between them."""
    connections, token_request = scale.connections, post("/", bytes(608), {})
    singles, batches, echoes = [], [], []
    for _ in range(scale.rounds):
        singles.append(load.per_second(node.port, requests=scale.singles, bundles=1, connections=connections))
        took_s, _ = ask(echo.port, [token_request] * scale.singles, connections=connections)
        echoes.append(scale.singles / took_s)
        batches.append(load.per_second(node.port, requests=scale.batches, bundles=BATCH, connections=connections))
    return [
        Row("single verifies", 1, "tkdb", round(max(singles)), "1/s"),
        Row("single verifies", 1, "hypercorn echo", round(max(echoes)), "1/s"),
        Row("batched verifies", BATCH, "tkdb", round(BATCH * max(batches)), "1/s"),
    ]


def starts(deployment: Deployment, times: int) -> Row:
    """Return how long a node with an empty database takes to be ready."""
    took_s = []
    for index in range(times):
        with deployment.node(deployment.folder / f"empty-{index}.db") as node:
            took_s.append(node.ready_s)
    return Row("ready", "empty", "tkdb", round(median(took_s), 3), "s")


def measure(folder: Path, scale: Scale) -> list[Row]:
    """Fill a database in ``folder``, and measure nodes."""
    deployment, full = Deployment(folder), folder / "full.db"
    size = f"{scale.organizations:,} organizations, {scale.revocations:,} revocations"
    owners = asyncio.run(
        fill(full, NAME, deployment.secrets, organizations=scale.organizations, revocations=scale.revocations)
    )
    load = Load(deployment, owners, scale.tokens)
    with on_core(LOAD_CORE):
        rows = [starts(deployment, scale.starts)]
        with deployment.node(full) as node, Process("bench.node") as echo:
            rows.append(Row("ready", size, "tkdb", round(node.ready_s, 2), "s"))
            rows.append(Row("memory", f"{size}, ready", "tkdb", round(node.resident_mb), "MB"))
            rows = throughput(node, echo, load, scale) + rows
            rows.append(Row("memory", f"{size}, after verifying", "tkdb", round(node.resident_mb), "MB"))
    return rows


def main() -> None:
    """Measure, and print."""
    parser = arguments("Measure one node: throughput, start and memory.")
    parser.add_argument("--quick", action="store_true", help="a small database, to check that the bench runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tkdb-bench-") as folder:
        emit(measure(Path(folder), QUICK if options.quick else WHOLE), "One node on one core", options.json)


if __name__ == "__main__":
    main()
