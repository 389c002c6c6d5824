"""A bench of the operations on a token, compared with those of other libraries in the same run.

- ``verify``: from text to trusted typed caveats, including the lookup of revocations. The caveats are not cleared.
- ``attenuate``: from text to text, with one more caveat.
- ``mint``: from caveats to text.

All tokens are distinct, each has its own ``exp``, and they are shuffled. The contenders take turns, 1,000 tokens each.
A figure is the mean of a contender's best turn. The others do the closest comparable work:

- ``pymacaroons`` deserializes binary v2 and verifies with exact-match satisfiers, ``macaroonbakery`` with its
  ``Checker``. Both clear. Neither types caveats or knows revocations.
- ``macaroonbakery`` attenuates through pymacaroons, and a JWT can't be attenuated, so neither has rows for that.
- ``pyjwt`` uses HS256 and n claims, and checks ``exp``, which is one of them.

Run ``python -m bench.tokens [--json] [--rounds N] [--tokens N] [--quick]``.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

import jwt
from macaroonbakery import bakery, checkers
from pymacaroons import MACAROON_V2, Verifier
from pymacaroons import Macaroon as PyMacaroon

from bench.rows import Row, arguments, emit
from tkdb.authority.keyring import Keyring
from tkdb.journal.rows import KeyRow, OrganizationRow, RevocationRow
from tkdb.journal.seal import RootKey, SealKey, SealKeys
from tkdb.journal.state import State
from tkdb.macaroon import verify
from tkdb.macaroon.caveats import Act, AnyCaveat, Aud, Exp, Nbf, Req, Res, Sub, encode
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon

SIZES = (1, 5, 10)
TURN_TOKENS = 1_000
NAME = "https://tkdb.acme.example"
LIFETIME_S = 90 * 86_400
KID, ROOT_KEY = os.urandom(16), os.urandom(32)
SEAL_KEYS = SealKeys([SealKey(os.urandom(32))])
NOW_MS = time.time_ns() // 1_000_000

Job = tuple[str, int, str]
"""The first columns of a row: what, n and who."""

Pass = Callable[[], Iterator[object]]
"""A function that does the job for every token, one for each step of the iterator."""


def caveats(n: int, exp_s: int) -> list[AnyCaveat]:
    """Return the first ``n`` of ten usual caveats. The first one is ``exp``."""
    usual = (
        Exp(exp_s),
        Act("rwcdC"),
        Res("app", {"123": "rw"}),
        Aud("https://api.acme.example"),
        Sub("user-4711"),
        Req(("GET",), ("/v1/apps/*",)),
        Nbf(1_700_000_000),
        Exp(exp_s + 3_600),
        Res("app", {"*": "rw"}),
        Act("rw"),
    )
    return list(usual[:n])


def loaded(revocations: int) -> State:
    """Return a state with one organization and ``revocations`` revocations,
    spread over its tokens' maximum lifetime."""
    draw, state = random.Random(1), State()
    sealed = SEAL_KEYS.seal_root_key(RootKey(ROOT_KEY), organization="acme", kid=KID, generation=1, nonce=bytes(12))
    state.put(OrganizationRow("acme", LIFETIME_S, LIFETIME_S, 0))
    state.put(KeyRow(KID, "acme", 1, "signing", None, sealed))
    for _ in range(revocations):
        at_ms = NOW_MS - draw.randrange(LIFETIME_S * 1_000)
        state.put(RevocationRow(KID, at_ms.to_bytes(6, "big") + draw.randbytes(10), b"", 1))
    return state


def ours(state: State, n: int, expiries: Sequence[int]) -> Iterator[tuple[Job, Pass]]:
    """Yield the jobs of ``tkdb``. Keys and revocations come from a whole state, as in the service."""
    find_key = Keyring(state, SEAL_KEYS).find
    verifier = verify.Verifier(NAME, find_key=find_key, find_revocation=state.revocation)

    def minted(exp_s: int) -> str:
        said = caveats(n, exp_s)
        return mint(NAME, ROOT_KEY, kid=KID, time_ms=NOW_MS, random=os.urandom(10), caveats=said).text

    texts = [minted(exp_s) for exp_s in expiries]
    assert list(verifier.verify(texts[0], NOW_MS).caveats) == caveats(n, expiries[0])
    yield ("verify", n, "tkdb"), lambda: (verifier.verify(text, NOW_MS) for text in texts)
    narrower = [Exp(exp_s - 60) for exp_s in expiries]
    pairs = list(zip(texts, narrower, strict=True))
    yield ("attenuate", n, "tkdb"), lambda: (Macaroon.parse(text).narrow(caveat).text for text, caveat in pairs)
    yield ("mint", n, "tkdb"), lambda: map(minted, expiries)


def pymacaroons(n: int, expiries: Sequence[int]) -> Iterator[tuple[Job, Pass]]:
    """Yield the jobs of ``pymacaroons``."""

    def minted(said: Sequence[str]) -> str:
        token = PyMacaroon(location=NAME, identifier=os.urandom(34), key=ROOT_KEY, version=MACAROON_V2)
        for condition in said:
            token.add_first_party_caveat(condition)
        return str(token.serialize())

    def verified(text: str, said: Sequence[str]) -> bool:
        verifier = Verifier()
        for condition in said:
            verifier.satisfy_exact(condition)
        return bool(verifier.verify(PyMacaroon.deserialize(text), ROOT_KEY))

    def attenuated(text: str, condition: str) -> str:
        return str(PyMacaroon.deserialize(text).add_first_party_caveat(condition).serialize())

    said = [_conditions(n, exp_s) for exp_s in expiries]
    texts = list(map(minted, said))
    assert verified(texts[0], said[0])
    yield ("verify", n, "pymacaroons"), lambda: map(verified, texts, said)
    narrower = [encode(Exp(exp_s - 60)).decode() for exp_s in expiries]
    yield ("attenuate", n, "pymacaroons"), lambda: map(attenuated, texts, narrower)
    yield ("mint", n, "pymacaroons"), lambda: map(minted, said)


def macaroonbakery(n: int, expiries: Sequence[int]) -> Iterator[tuple[Job, Pass]]:
    """Yield the jobs of ``macaroonbakery``. Its oven adds the expiry itself;
    the other n - 1 caveats use our condition."""
    checker = checkers.Checker()
    checker.namespace().register("tkdb.example", "")
    checker.register("is", "tkdb.example", lambda context, condition, argument: None)
    oven = bakery.Oven(location=NAME, namespace=checker.namespace(), key=bakery.generate_key())
    kitchen = bakery.Checker(checker=checker, macaroon_opstore=oven)
    operation, context = bakery.Op("app", "read"), checkers.AuthContext()

    def minted(exp_s: int, said: Sequence[str]) -> str:
        expiry = datetime.fromtimestamp(exp_s, UTC).replace(tzinfo=None)
        further = [checkers.Caveat("is " + condition) for condition in said]
        return str(oven.macaroon(bakery.LATEST_VERSION, expiry, further, [operation]).macaroon.serialize())

    def verified(text: str) -> object:
        return kitchen.auth([[PyMacaroon.deserialize(text)]]).allow(context, [operation])

    said = [_conditions(n, exp_s)[1:] for exp_s in expiries]
    texts = list(map(minted, expiries, said))
    yield ("verify", n, "macaroonbakery"), lambda: map(verified, texts)
    yield ("mint", n, "macaroonbakery"), lambda: map(minted, expiries, said)


def pyjwt(n: int, expiries: Sequence[int]) -> Iterator[tuple[Job, Pass]]:
    """Yield the jobs of ``PyJWT``."""

    def claimed(exp_s: int) -> dict[str, Any]:
        further = {f"claim-{index}": condition for index, condition in enumerate(_conditions(n, exp_s)[1:])}
        return {"exp": exp_s, **further}

    def minted(claims: dict[str, Any]) -> str:
        return jwt.encode(claims, ROOT_KEY, algorithm="HS256")

    claims = list(map(claimed, expiries))
    texts = list(map(minted, claims))
    assert jwt.decode(texts[0], ROOT_KEY, algorithms=["HS256"]) == claims[0]
    yield ("verify", n, "pyjwt"), lambda: (jwt.decode(text, ROOT_KEY, algorithms=["HS256"]) for text in texts)
    yield ("mint", n, "pyjwt"), lambda: map(minted, claims)


def _conditions(n: int, exp_s: int) -> list[str]:
    return [encode(caveat).decode() for caveat in caveats(n, exp_s)]


def race(contenders: Mapping[Job, Pass], *, rounds: int, tokens: int) -> dict[Job, float]:
    """Return for each contender the seconds a token in its best turn, over ``rounds`` passes."""
    turn = min(TURN_TOKENS, tokens)
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        passes = {job: start() for job, start in contenders.items()}
        for _ in range(tokens // turn):
            for job, steps in passes.items():
                began = time.perf_counter()
                deque(islice(steps, turn), maxlen=0)
                best[job] = min(best[job], (time.perf_counter() - began) / turn)
    return best


def measure(*, rounds: int, tokens: int, revocations: int) -> list[Row]:
    """Return the time of each contender for each job in µs, and the others' times as multiples of ours."""
    state = loaded(revocations)
    best: dict[Job, float] = {}
    gc.freeze()
    for n in SIZES:
        expiries = [NOW_MS // 1_000 + LIFETIME_S - index for index in range(tokens)]
        random.Random(n).shuffle(expiries)
        contenders = chain(
            ours(state, n, expiries), pymacaroons(n, expiries), macaroonbakery(n, expiries), pyjwt(n, expiries)
        )
        best |= race(dict(contenders), rounds=rounds, tokens=tokens)
    rows = [Row(what, n, who, round(took_s * 1e6, 2), "µs") for (what, n, who), took_s in best.items()]
    rows += [
        Row(f"{what}, ratio", n, who, round(took_s / best[what, n, "tkdb"], 2), "times tkdb")
        for (what, n, who), took_s in best.items()
        if who != "tkdb"
    ]
    return sorted(rows, key=lambda row: (row.unit != "µs", row.what, row.n))


def main() -> None:
    """Measure, and print."""
    parser = arguments("Measure verify, attenuate and mint, compared with other libraries.")
    parser.add_argument("--rounds", type=int, default=9, help="passes over all tokens by each contender. Default: 9")
    parser.add_argument("--tokens", type=int, default=2_000, help="distinct tokens. Default: 2000")
    parser.add_argument("--revocations", type=int, default=1_000_000, help="revocations in memory. Default: 1000000")
    parser.add_argument("--quick", action="store_true", help="one short round, to check that the bench runs")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tokens, options.revocations = 1, 20, 1_000
    rows = measure(rounds=options.rounds, tokens=options.tokens, revocations=options.revocations)
    emit(rows, f"A token, best turn of {options.rounds} rounds, {options.revocations:,} revocations", options.json)


if __name__ == "__main__":
    main()
