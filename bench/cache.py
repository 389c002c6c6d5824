"""A bench of the client's cache: the time for a cached token, compared with other libraries, and the hit ratio.

- ``exact``: a token with 5 caveats that was verified before. ``+1``, ``+3``: a token that was attenuated from it by
  this number of caveats and was never seen before. The time is from text to cleared: each token is read, looked up,
  checked and cleared for a request.
- ``hit ratio``: the share of all verifications that the cache answers, on the mix that ``bench.mix`` describes: 35
  regions on a simulated clock. Further rows give the requests to the authority, and the ratio of the same mix if
  services narrow with an ``exp`` of the moment, as an app would without ``client.narrow``.
- ``bytes an entry``: the memory that a cached token with 5 caveats takes, and the bytes that the cache counts for it.

The other libraries do the closest comparable work, in the same run. ``pyjwt`` (HS256) and ``pymacaroons`` verify from
scratch each time. ``pymacaroons, LRU`` caches results by the token's text: it knows no revocations, and a longer token
is a new token. They clear only by the comparisons that they are given.

Run ``python -m bench.cache [--json] [--rounds N] [--tokens N] [--seconds N] [--regions N] [--quick]``.
"""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import jwt
from pymacaroons import MACAROON_V2, Verifier
from pymacaroons import Macaroon as PyMacaroon

from bench.mix import Fleet, Outcome
from bench.rows import Row, arguments, emit
from bench.tokens import KID, NAME, NOW_MS, ROOT_KEY, Job, Pass, caveats, race
from tkdb import api
from tkdb.macaroon.access import Access, Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, AnyCaveat, Exp, Req, encode
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import Cache
from tkdb_client.calls.attempt import Reply
from tkdb_client.clock import Clock

N = 5
EXP_S = 2_000_000_000
CLOCK = Clock()
FURTHER = {"exact": 0, "+1": 1, "+3": 3}
POLICY = Policy(organization="acme", clock=time.time, audience="https://api.acme.example")
ACCESS = Access(action="r", resource={"app": "123"}, method="GET", path="/v1/apps/123")


def further(count: int, number: int) -> list[AnyCaveat]:
    """Return ``count`` additional caveats that no earlier token had."""
    said: list[AnyCaveat] = [Exp(EXP_S - 1 - number), Act("rw"), Req(("GET",), ("/v1/apps/*",))]
    return said[:count]


def minted() -> Macaroon:
    """Return a token of ``N`` caveats."""
    said = caveats(N, EXP_S)
    return mint(NAME, ROOT_KEY, kid=KID, time_ms=NOW_MS, random=os.urandom(10), caveats=said)


def opened(max_bytes: int = 32 << 20) -> Cache:
    """Return an empty cache like a client's."""
    return Cache(NAME, POLICY, max_bytes=max_bytes, bound_ms=10**9, monotonic_ms=CLOCK.elapsed_ms)


def know(cache: Cache, token: Macaroon) -> None:
    """Put a token into the cache, as if the authority had verified it."""
    question, bundle = cache.open(), Bundle(token)
    told = Reply(api.Answer(b"j" * 16, 1, 0), CLOCK.elapsed_ms(), 0)
    cache.take(question, bundle, token.tail, api.Valid("acme"), told)
    cache.close(question)


def ours(tokens: int) -> Iterator[tuple[Job, Pass]]:
    """Yield the jobs of ``tkdb``."""
    cache, token = opened(), minted()
    know(cache, token)
    number = 0

    def presented(count: int) -> list[str]:
        nonlocal number
        number += tokens
        # Each token is a separate text object, as if it came from the network.
        return [token.narrow(*further(count, number + each)).text for each in range(tokens)]

    def verified(text: str) -> None:
        known = cache.get(text)
        assert known is not None
        known.clear(ACCESS)

    for what, count in FURTHER.items():
        yield (what, N, "tkdb"), lambda count=count: map(verified, presented(count))  # type: ignore[misc]


def pymacaroons(tokens: int) -> Iterator[tuple[Job, Pass]]:
    """Yield the jobs of ``pymacaroons``, and of ``pymacaroons`` with an LRU cache of results."""
    number = 0

    def presented(count: int) -> list[tuple[str, list[str]]]:
        nonlocal number
        number += tokens
        said = [[*map(_condition, [*caveats(N, EXP_S), *further(count, number + each)])] for each in range(tokens)]
        root = b"i" * 34 if not count else None
        return [(_built(root or os.urandom(34), each), each) for each in said]

    def verified(text: str, said: Sequence[str]) -> bool:
        verifier = Verifier()
        for condition in said:
            verifier.satisfy_exact(condition)
        return bool(verifier.verify(PyMacaroon.deserialize(text), ROOT_KEY))

    kept = lru_cache(maxsize=10_000)(lambda text, said: verified(text, said))
    for what, count in FURTHER.items():
        yield (
            (what, N, "pymacaroons"),
            lambda count=count: (  # type: ignore[misc]
                verified(text, said) for text, said in presented(count)
            ),
        )
        yield (
            (what, N, "pymacaroons, LRU"),
            lambda count=count: (  # type: ignore[misc]
                kept(text, tuple(said)) for text, said in presented(count)
            ),
        )


def pyjwt(tokens: int) -> Iterator[tuple[Job, Pass]]:
    """Yield the jobs of ``PyJWT``, with one claim for each caveat."""
    for what, count in FURTHER.items():
        said = map(_condition, [*caveats(N, EXP_S)[1:], *further(count, 0)])
        claims = {"exp": EXP_S, **{f"claim-{index}": condition for index, condition in enumerate(said)}}
        text = jwt.encode(claims, ROOT_KEY, algorithm="HS256")
        texts = [text] * tokens
        yield (
            (what, N, "pyjwt"),
            lambda texts=texts: (  # type: ignore[misc]
                jwt.decode(each, ROOT_KEY, algorithms=["HS256"]) for each in texts
            ),
        )


def entry_bytes(count: int) -> tuple[float, float]:
    """Return the memory that an entry takes, and the bytes that the cache counts for it."""
    raws = [minted().raw for _ in range(count)]
    cache = opened(1 << 30)
    gc.collect()
    tracemalloc.start()
    for raw in raws:
        know(cache, Macaroon.parse(bytes(bytearray(raw))))  # separate bytes, as if from the network
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / count, cache.info().bytes / count


def mixed(outcome: Outcome, n: str) -> list[Row]:
    """Return the rows of one mix."""
    return [
        Row("hit ratio", n, "tkdb", round(100 * outcome.hit_share, 3), "%"),
        Row("questions", n, "tkdb", round(outcome.asked / outcome.seconds, 2), "1/s"),
        Row("polls", n, "tkdb", round(outcome.polls / outcome.seconds, 2), "1/s"),
    ]


def measure(*, rounds: int, tokens: int, regions: int, seconds: float) -> list[Row]:
    """Return all rows."""
    gc.freeze()
    contenders: dict[Job, Any] = {**dict(ours(tokens)), **dict(pymacaroons(tokens)), **dict(pyjwt(tokens))}
    best = race(contenders, rounds=rounds, tokens=tokens)
    rows = [Row(what, n, who, round(took_s * 1e6, 2), "µs") for (what, n, who), took_s in best.items()]
    rows += [
        Row(f"{what}, ratio", n, who, round(took_s / best[what, n, "tkdb"], 2), "times tkdb")
        for (what, n, who), took_s in best.items()
        if who != "tkdb"
    ]
    rows += mixed(Fleet(regions=regions, seconds=seconds).run(), f"{regions} regions")
    fresh = Fleet(regions=max(1, regions // 7), seconds=seconds, buckets=False).run()
    rows.append(Row("hit ratio", "an exp of the moment", "tkdb", round(100 * fresh.hit_share, 3), "%"))
    taken, counted = entry_bytes(tokens)
    rows.append(Row("bytes an entry", N, "tkdb", round(taken), "bytes"))
    rows.append(Row("bytes an entry", N, "tkdb, as counted", round(counted), "bytes"))
    return rows


def _condition(caveat: AnyCaveat) -> str:
    return encode(caveat).decode()


def _built(identifier: bytes, said: Sequence[str]) -> str:
    token = PyMacaroon(location=NAME, identifier=identifier, key=ROOT_KEY, version=MACAROON_V2)
    for condition in said:
        token.add_first_party_caveat(condition)
    return str(token.serialize())


def main() -> None:
    """Measure, and print."""
    parser = arguments("Measure the client's cache: the time for a cached token, and the hit ratio.")
    parser.add_argument("--rounds", type=int, default=9, help="passes over all tokens by each contender. Default: 9")
    parser.add_argument("--tokens", type=int, default=2_000, help="tokens in a pass. Default: 2000")
    parser.add_argument("--regions", type=int, default=35, help="regions of the mix. Default: 35")
    parser.add_argument("--seconds", type=float, default=300, help="counted time, on the simulated clock. Default: 300")
    parser.add_argument("--quick", action="store_true", help="one short round, to check that the bench runs")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tokens, options.regions, options.seconds = 1, 50, 2, 20
    rows = measure(rounds=options.rounds, tokens=options.tokens, regions=options.regions, seconds=options.seconds)
    emit(rows, f"A cached token with {N} caveats, best turn of {options.rounds} rounds", options.json)


if __name__ == "__main__":
    main()
