"""A mix of callers in many regions, on a simulated clock: how often does the client's cache answer?

In each region one app verifies what its callers send, through a client's production rules (cache, feed, verification);
only the way to the authority is simulated (0.1 s there and back, machines that lag by 0.15 s). Its callers are

- sessions, 70 % of the requests: they present a token as it was minted, for an hour, and are replaced by new ones; how
  often each comes follows Zipf's law;
- services, 30 %: each narrows its own token for every request, to the audience, the method, one of six classes of
  paths (by Zipf's law), and 5 minutes. The app never sees the token that they narrow.

Every 10 s somebody, somewhere, is revoked: a session's lineage, or a branch that a service has narrowed. Apps restart
every six hours, spread over the regions, with an empty cache; so do all at the start, and what happens in the first
three minutes isn't counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tests.client.cache.model.realm import NAME, NOW_MS, Realm
from tests.client.scheduler import Scheduler
from tkdb import api, errors
from tkdb.macaroon.access import Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, Aud, Exp, Req, Sub
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import Cache
from tkdb_client.calls.attempt import Reply
from tkdb_client.calls.effects import Sleep, Steps
from tkdb_client.verification.feed_follower import FeedFollower
from tkdb_client.verification.verification import Verification

SESSIONS, SERVICES, PATHS = 200, 2, 6
SESSION_S, FOR_S = 3_600, 300
REQUESTS_S, SERVICES_SHARE = 40, 0.3
REVOKED_EVERY_MS, RESTARTED_EVERY_S = 10_000, 6 * 3_600
WAY_MS, LAG_MS = 50, 150
WARM_MS = 180_000
BOUND_MS = 5_000


@dataclass
class Outcome:
    """What was counted, over all regions."""

    requests: int
    asked: int
    polls: int
    seconds: float

    @property
    def hit_share(self) -> float:
        """How many of the requests were answered without asking."""
        return 1 - self.asked / self.requests


class _Way:
    """The way to the authority and back, in the exchange's place."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def saw(self, journal: bytes, position: int) -> None:
        """Nobody lags by more than that here."""

    def ask(self, _path: str, call: Any, *, wait_ms: int = 0, **_: Any) -> Steps[tuple[Any, Reply]]:
        """As the exchange's."""
        fleet = self._fleet
        sent_ms = fleet.now_ms
        yield Sleep(WAY_MS)
        position = fleet.realm.journal.position(fleet.known)
        result: api.Verified | api.Feed
        if isinstance(call, api.Verify):
            fleet.asked += len(call.bundles)
            result = api.Verified([fleet.realm.verify(text, fleet.known) for text in call.bundles])
        else:
            fleet.polls += 1
            until_ms = fleet.now_ms + wait_ms
            while True:
                result = fleet.realm.feed(call.kids, fleet.realm.journal, call.after, fleet.known)
                if result.revocations or fleet.now_ms >= until_ms:
                    break
                yield Sleep(50)
        yield Sleep(WAY_MS)
        return result, Reply(api.Answer(fleet.realm.journal.id, position, LAG_MS), sent_ms, 0)


class _App:
    """One region's app, and those who call it."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._fleet = fleet
        self._draw = random.Random(number)
        self._sessions = [self._session(self._draw.random()) for _ in range(SESSIONS)]
        self._services = [fleet.mint(Exp(2_000_000_000), Sub(f"service-{each}")) for each in range(SERVICES)]
        self.restart()
        self._next()

    def restart(self) -> None:
        """Begin with an empty cache."""
        way: Any = _Way(self._fleet)
        given: dict[str, Any] = {"bound_ms": BOUND_MS, "monotonic_ms": lambda: self._fleet.now_ms}
        policy = Policy(clock=lambda: self._fleet.now_s, audience="app")
        self._cache = Cache(NAME, policy, max_bytes=32 << 20, **given)
        feed = FeedFollower(way, self._cache, timeout_ms=10_000, random=self._draw.randbytes, **given)
        self._verification = Verification(way, self._cache, feed, asks_when_stale=True, timeout_ms=10_000, **given)

    def revoke(self) -> api.Revocation:
        """Return the revocation of somebody."""
        if self._draw.random() < 0.9:
            token = self._draw.choice(self._sessions)[0]
            return api.Lineage(token.kid, token.nonce)
        token = self._narrowed()
        return api.Branch(token.kid, token.nonce, token.branch)

    def _session(self, spent: float = 0.0) -> tuple[Macaroon, float]:
        """Return a token, and when it ends."""
        return self._fleet.mint(Exp(2_000_000_000), Sub("user")), self._fleet.now_s + SESSION_S * (1 - spent)

    def _narrowed(self) -> Macaroon:
        service = self._draw.choice(self._services)
        (path,) = self._draw.choices(range(PATHS), cum_weights=_ZIPF[:PATHS])
        return self._fleet.narrow(service, f"/v1/class-{path}/*", self._draw)

    def _next(self) -> None:
        self._fleet.clock.after(max(1, int(self._draw.expovariate(REQUESTS_S) * 1_000)), self._next)
        if self._draw.random() < SERVICES_SHARE:
            token = self._narrowed()
        else:
            (number,) = self._draw.choices(range(SESSIONS), cum_weights=_ZIPF[:SESSIONS])
            token, ends_s = self._sessions[number]
            if self._fleet.now_s >= ends_s:
                token, _ = self._sessions[number] = self._session()
        self._fleet.requests += 1
        text = token.text
        try:
            known = self._cache.get(text)
        except errors.Denied:
            return
        if known is None:
            self._fleet.clock.start(self._verification.verify(Bundle(token)), lambda _: None)


_ZIPF = list(accumulate(1 / (rank + 1) for rank in range(1_000)))


class Fleet:
    """All regions, and the authority.

    Args:
        regions: how many there are.
        seconds: how long is counted.
        buckets: whether services narrow as the client's ``narrow`` does, or with an ``exp`` of the moment.
    """

    def __init__(self, *, regions: int, seconds: float, buckets: bool = True) -> None:
        self.clock = Scheduler()
        self.realm = Realm()
        self.known = 0
        self.requests = self.asked = self.polls = 0
        self._seconds = seconds
        self._buckets = buckets
        self._minted = 0
        self._began_ms = self.clock.now_ms
        self._draw = random.Random(regions)
        self._apps = [_App(self, number) for number in range(regions)]

    @property
    def now_ms(self) -> int:
        """The monotonic clock."""
        return self.clock.now_ms

    @property
    def now_s(self) -> float:
        """The wall clock."""
        return (NOW_MS + self.clock.now_ms - self._began_ms) / 1_000

    def mint(self, *caveats: Any) -> Macaroon:
        """Return a new token of one organization."""
        self._minted += 1
        return self.realm.mint(*caveats, number=self._minted)

    def narrow(self, token: Macaroon, path: str, draw: random.Random) -> Macaroon:
        """Narrow a token for one request."""
        if self._buckets:
            return token.narrow(
                audience="app", action="r", method="GET", path=path, expires_in_s=FOR_S, now_s=self.now_s
            )
        exp_s = int(self.now_s) + FOR_S
        return token.narrow(Aud("app"), Act("r"), Req(("GET",), (path,)), Exp(exp_s + draw.randrange(2)))

    def run(self) -> Outcome:
        """Let all of it happen, and count."""
        self._after(REVOKED_EVERY_MS, self._revoke)
        self._after(RESTARTED_EVERY_S * 1_000 // len(self._apps), self._restart)
        self.clock.run_until(self.clock.now_ms + WARM_MS)
        self.requests = self.asked = self.polls = 0
        self.clock.run_until(self.clock.now_ms + int(self._seconds * 1_000))
        return Outcome(self.requests, self.asked, self.polls, self._seconds)

    def _after(self, every_ms: int, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self.clock.after(every_ms, again)

        self.clock.after(every_ms // 2, again)

    def _revoke(self) -> None:
        self.realm.revoke(self._draw.choice(self._apps).revoke(), self.now_ms)
        known = len(self.realm.entries)
        self.clock.after(LAG_MS, lambda: setattr(self, "known", known))

    def _restart(self) -> None:
        self._draw.choice(self._apps).restart()
