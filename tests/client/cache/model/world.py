"""An authority, machines that lag, and clients with caches, on one simulated clock. A schedule follows from its seed.

The clients run the production rules (exchange, cache, feed, verification). Their requests aren't sealed. The network
and its latencies are random. Every verification is compared with the realm:

- *stale accept*: a token was accepted after its revocation was acknowledged and the bound had passed;
- *undone*: a client accepted a token after its own revocation of the token had returned, in the same journal;
- *false denial*: a token that wasn't revoked was denied for another reason than stale.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.client.cache.model.realm import NAME, NOW_MS, Journal, Realm
from tests.client.fake_authority import Brain
from tests.client.scheduler import START_MS, PlainInitiator, Post, Scheduler
from tkdb import api, errors
from tkdb.failure import Failure
from tkdb.macaroon.access import Policy
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import subject_digest
from tkdb.net.url import Url
from tkdb_client.cache.cache import Cache
from tkdb_client.calls.call import Calls, Timing
from tkdb_client.calls.transport import Answered, Lost, Send
from tkdb_client.clock import Clock
from tkdb_client.operations import Operations
from tkdb_client.verification.feed_follower import FeedFollower
from tkdb_client.verification.verification import Verification

BOUND_MS = 5_000
BRAIN = Brain()

STALE_ACCEPT = "stale accept"
UNDONE = "undone"
FALSE_DENIAL = "false denial"


@dataclass
class Parts:
    """The parts of a client. A negative control replaces one of them."""

    cache: type[Cache] = Cache
    feed: type[FeedFollower] = FeedFollower
    verification: type[Verification] = Verification
    operations: type[Operations] = Operations
    before: Callable[[Cache], object] = lambda _: None
    position_after: bool = False
    """True if a machine reads its position and age after it has found the result, and not before."""


@dataclass
class Violation:
    kind: str
    why: str


@dataclass
class Machine:
    """The machine of one region. At ``checked_ms``, it knew the first ``known`` entries."""

    journal: Journal
    known: int = 0
    checked_ms: int = START_MS
    cut: bool = False
    refresh_ms: int = 300
    waiting: list[Callable[[], None]] = field(default_factory=list)


class Caller:
    def __init__(self, world: World, number: int, parts: Parts) -> None:
        self.number = number
        draw = random.Random(world.draw.random())
        clock = Clock(monotonic_ms=lambda: world.clock.now_ms, now_ms=lambda: NOW_MS)
        exchange = Calls(
            [Url.parse(f"http://region-{each}") for each in range(len(world.machines))],
            BRAIN.identity,
            signer=BRAIN.signer,
            timing=Timing(timeout_ms=6_000, attempt_timeout_ms=2_500),
            clock=clock,
            random=draw.randbytes,
        )
        exchange._attempts._initiator = PlainInitiator()  # type: ignore[assignment]
        policy = Policy(clock=lambda: NOW_MS / 1000)
        given: dict[str, Any] = {"bound_ms": BOUND_MS, "monotonic_ms": clock.monotonic_ms}
        self.cache = parts.cache(NAME, policy, max_bytes=world.cache_bytes, **given)
        parts.before(self.cache)
        feed = parts.feed(exchange, self.cache, timeout_ms=6_000, random=draw.randbytes, **given)
        verification = parts.verification(
            exchange, self.cache, feed, asks_when_stale=draw.random() < 0.7, timeout_ms=6_000, **given
        )
        self.operations = parts.operations(exchange, verification, self.cache)
        self.revoked: list[Macaroon] = []


class World:
    """One schedule."""

    def __init__(
        self,
        seed: int,
        parts: Parts | None = None,
        *,
        calm: bool = False,
        log: Callable[[int, str], object] | None = None,
    ) -> None:
        self.parts = parts or Parts()
        self.draw = random.Random(seed)
        self.calm = calm
        self.log = log or (lambda _at_ms, _text: None)
        self.clock = Scheduler()
        self.realm = Realm()
        self.violations: list[Violation] = []
        self.counts: dict[str, int] = {}
        self.machines = [Machine(self.realm.journal) for _ in range(self.draw.randint(1, 3))]
        self.cache_bytes = self.draw.choice([5_000, 10_000, 1 << 20])
        self.callers = [Caller(self, number, self.parts) for number in range(self.draw.randint(1, 3))]
        self.tokens = self._tokens()
        self.links: dict[tuple[int, int], bool] = {}
        for machine in self.machines:  # An idle machine reads the head less often.
            machine.refresh_ms = 300 if calm else self.draw.choice([300, 4_500])
        self.max_latency_ms = 20 if calm else self.draw.choice([20, 300, 1_200])

    def run(self, for_ms: int = 25_000) -> World:
        until_ms = self.clock.now_ms + for_ms
        for number in range(len(self.machines)):
            self._refresh(number)
        for caller in self.callers:
            self._act(caller)
        self.clock.after(self.draw.randint(100, 2_000), self._disturb)
        self.clock.run_until(until_ms)
        return self

    # --- tokens -------------------------------------------------------------------------------------------------

    def _tokens(self) -> list[Macaroon]:
        """Return tokens of one to five lineages: minted tokens, descendants and siblings, and a forgery for each."""
        tokens: list[Macaroon] = []
        for number in range(self.draw.randint(1, 5)):
            kid = self.draw.choice(self.realm.kids)
            lineage = [self.realm.mint(kid=kid, number=number, at_ms=NOW_MS - 1_000 * number)]
            for size in range(self.draw.randint(1, 6)):
                parent = self.draw.choice(lineage)
                lineage.append(parent.narrow(self.draw.choice([Act("r"), Exp(1_900_000_000 + size)])))
            tokens += lineage[self.draw.randint(0, 1) :]  # Often the minted token is never presented.
            child = lineage[-1]
            tokens.append(msgspec.structs.replace(child, raw=child.raw[:-1] + bytes([child.raw[-1] ^ 1])))
        return tokens

    # --- actions of clients -------------------------------------------------------------------------------------

    def _act(self, caller: Caller) -> None:
        token = self.draw.choice(self.tokens)
        if self.draw.random() < 0.03 and not self.calm:
            self._revoke_by(caller, token)
        else:
            self._verify(caller, token)
        self.clock.after(self.draw.randint(1, 700), lambda: self._act(caller))

    def _verify(self, caller: Caller, token: Macaroon) -> None:
        began_ms = self.clock.now_ms
        own = token in caller.revoked
        self._count("verified")
        try:
            known = caller.cache.get(token.text)
        except errors.Denied as denied:
            self._check(caller, token, denied, began_ms, own)
            return
        if known is not None:
            self._check(caller, token, known, began_ms, own)
            return
        steps = caller.operations.verify(token)
        self.clock.start(steps, lambda result: self._check(caller, token, result, began_ms, own), self._poster(caller))

    def _check(self, caller: Caller, token: Macaroon, result: Any, began_ms: int, own: bool) -> None:
        now_ms = self.clock.now_ms
        acked_ms = self.realm.acked_ms(token)
        name = self.tokens.index(token)
        self.log(now_ms, f"client {caller.number}: token {name} {type(result).__name__}, asked at {began_ms}")
        if isinstance(result, errors.TkdbError):
            self._count(type(result).__name__)
            is_true = acked_ms is not None or isinstance(result, errors.StaleAuthority | errors.Unavailable)
            if self.calm:
                is_true = acked_ms is not None
            if not is_true:
                self._violate(FALSE_DENIAL, f"token {name} at {now_ms}: {result!r}")
            return
        self._count("accepted")
        if acked_ms is not None and now_ms > acked_ms + BOUND_MS:
            self._violate(STALE_ACCEPT, f"token {name} at {now_ms}, revoked at {acked_ms}")
        if own:
            self._violate(UNDONE, f"token {name} at {now_ms}")

    def _revoke_by(self, caller: Caller, token: Macaroon) -> None:
        def ended(result: Any) -> None:
            if not isinstance(result, Exception):
                self.log(self.clock.now_ms, f"client {caller.number} has revoked token {self.tokens.index(token)}")
                if all(machine.journal is self.realm.journal for machine in self.machines):
                    # The descendants are revoked with the token.
                    caller.revoked += [each for each in self.tokens if _descends(each, token)]

        if self.realm.acked_ms(token) is None:
            target = api.Branch(token.kid, token.nonce, token.branch)
            self.clock.start(caller.operations.revoke_many([target], None), ended, self._poster(caller))

    # --- revocations and faults ---------------------------------------------------------------------------------

    def _disturb(self) -> None:
        self.clock.after(self.draw.randint(200, 4_000), self._disturb)
        chance = self.draw.random()
        if chance < 0.45:
            for _ in range(self.draw.choice([1, 1, 1, 6])):
                self._revoke()
        elif self.calm:
            return
        elif chance < 0.65:
            machine = self.draw.choice(self.machines)
            machine.cut = not machine.cut
            self.log(self.clock.now_ms, f"machine {self.machines.index(machine)} cut: {machine.cut}")
        elif chance < 0.9:
            link = self.draw.randrange(len(self.callers)), self.draw.randrange(len(self.machines))
            self.links[link] = not self.links.get(link, False)
            self.log(self.clock.now_ms, f"link {link} cut: {self.links[link]}")
        elif chance < 0.95:
            self.realm.fail_over(self.draw.randbytes(16))
            for caller in self.callers:  # A machine of the old journal may answer until it is stale.
                caller.revoked.clear()
            self._count("journals")
            self.log(self.clock.now_ms, "another journal")

    def _revoke(self) -> None:
        token = self.draw.choice(self.tokens)
        kid, nonce, kim = token.kid, token.nonce, subject_digest("kim")
        kinds: list[api.Revocation | None] = [
            api.Branch(kid, nonce, token.branch),
            api.Branch(kid, nonce, token.branch),
            api.Branch(kid, nonce, self.draw.randbytes(16)),
            None,
        ]
        if self.draw.random() < 0.3:
            kinds = [
                api.Lineage(kid, nonce),
                api.IssuedBefore([kid], token.issued_ms + self.draw.choice([-500, 500])),
                api.IssuedBefore([kid], 0, [(kim, token.issued_ms + self.draw.choice([-500, 500]))]),
            ]
        if self.draw.random() < 0.04:
            kinds = [api.KeyRetired(kid)]
        revocation = self.draw.choice(kinds)
        self.realm.revoke(revocation, self.clock.now_ms)
        self._count("revoked")
        self.log(self.clock.now_ms, f"entry {len(self.realm.entries)}: {revocation}")

    def _refresh(self, number: int) -> None:
        """Let a machine read the head, again and again. A read that is sent now proves the state of now."""
        machine = self.machines[number]
        sent_ms, known, journal = self.clock.now_ms, len(self.realm.entries), self.realm.journal
        took_ms = self.draw.randint(1, 2 * self.max_latency_ms)

        def arrive() -> None:
            if not machine.cut:
                moved = known > machine.known or journal is not machine.journal
                machine.known, machine.checked_ms, machine.journal = known, sent_ms, journal
                if moved:
                    waiting, machine.waiting = machine.waiting, []
                    for wake in waiting:
                        wake()
            self.clock.after(
                self.draw.randint(machine.refresh_ms // 6, machine.refresh_ms), lambda: self._refresh(number)
            )

        self.clock.after(took_ms, arrive)

    # --- the network --------------------------------------------------------------------------------------------

    def _poster(self, caller: Caller) -> Post:
        return lambda send, ended: self._post(caller, send, ended)

    def _post(self, caller: Caller, send: Send, ended: Callable[[Any], None]) -> None:
        number = int(send.url.host.removeprefix("region-"))
        over = [False]

        def end(outcome: Any) -> None:
            if not over[0]:
                over[0] = True
                ended(outcome)

        def lost() -> bool:
            return self.links.get((caller.number, number), False)

        def arrive() -> None:
            if not lost():
                self._serve(self.machines[number], send, back)

        def back(answer: api.Answer) -> None:
            if not lost():
                self.clock.after(self._latency_ms(), lambda: end(Answered(api.encode(answer), 1.0)))

        self.clock.after(send.timeout_ms, lambda: end(Lost("silence", silent=True)))
        self.clock.after(self._latency_ms(), arrive)

    def _latency_ms(self) -> int:
        return self.draw.randint(1, self.max_latency_ms)

    def _serve(self, machine: Machine, send: Send, back: Callable[[api.Answer], None]) -> None:
        call = api.decode_request(send.path, send.message)
        now_ms = self.clock.now_ms
        state = self._state(machine)

        def fail(error: errors.TkdbError) -> None:
            back(api.Answer(**self._state(machine), failure=Failure.from_error(error)))

        if isinstance(call, api.Status):
            fail(errors.Unavailable("this model has no status"))
        elif isinstance(call, api.Revoke):
            for target in call.targets:
                assert isinstance(target, api.Branch)
                self.realm.revoke(target, now_ms)
            answer = api.Answer(self.realm.journal.id, self.realm.position, 0, _raw(api.Revoked(already=False)))
            back(answer)
        elif now_ms - machine.checked_ms > BOUND_MS:
            fail(errors.StaleAuthority("the machine is stale"))
        elif int(send.headers["position"]) > state["position"]:
            fail(errors.Unavailable("this machine hasn't reached that position"))
        elif isinstance(call, api.Verify):
            results = [self.realm.verify(text, machine.known) for text in call.bundles]
            self._answer(machine, state, api.Verified(results), back)
        else:
            self._hold(machine, call, state, now_ms + call.wait_ms, back)

    def _hold(self, machine: Machine, call: Any, state: dict[str, Any], until_ms: int, back: Any) -> None:
        feed = self.realm.feed(call.kids, machine.journal, call.after, machine.known, limit=2)
        if feed.revocations or feed.more or self.clock.now_ms >= until_ms or machine.journal.id != state["journal"]:
            self._answer(machine, state, feed, back)
            return
        woken = [False]

        def wake() -> None:
            if not woken[0]:
                woken[0] = True
                self._hold(machine, call, state, until_ms, back)

        machine.waiting.append(wake)
        self.clock.after(until_ms - self.clock.now_ms, wake)

    def _answer(self, machine: Machine, state: dict[str, Any], result: msgspec.Struct, back: Any) -> None:
        """Send the answer after a short time, in which the machine may receive more entries."""

        def done() -> None:
            after = self._state(machine) if self.parts.position_after else state
            back(api.Answer(**after, result=_raw(result)))

        self.clock.after(self.draw.randint(0, self.max_latency_ms // 4), done)

    def _state(self, machine: Machine) -> dict[str, Any]:
        age_ms = self.clock.now_ms - machine.checked_ms
        return {"journal": machine.journal.id, "position": machine.journal.position(machine.known), "age_ms": age_ms}

    def _violate(self, kind: str, why: str) -> None:
        self.violations.append(Violation(kind, why))
        self.log(self.clock.now_ms, f"VIOLATION {kind}: {why}")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _raw(message: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(api.encode(message))


def _descends(token: Macaroon, ancestor: Macaroon) -> bool:
    return token.identifier == ancestor.identifier and token.packets[: len(ancestor.packets)] == ancestor.packets
