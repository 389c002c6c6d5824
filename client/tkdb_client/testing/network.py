"""The network between clients and the testing authority: real messages, no sockets.

A region is an address that may have a fault. All regions lead to the same authority.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tkdb import api, errors
from tkdb.authority import clock as authority_clock
from tkdb.channel.envelope import check_time
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.channel.server import Opened, Responder
from tkdb.failure import Failure
from tkdb.net.url import Url
from tkdb.ports import Caller
from tkdb.signers import ALL, Permission, Signer
from tkdb_client.calls.transport import Answered, Lost, Outcome, Send
from tkdb_client.testing.book import Book
from tkdb_client.testing.clock import Clock
from tkdb_client.testing.faults import Fault, Sound

NAME: Final = "tkdb.test"
"""The authority's name, and the end of its addresses. ``.test`` belongs to no one (RFC 6761)."""

_SOUND: Final = Sound()
_EVERYTHING: Final[frozenset[Permission]] = frozenset(
    {"mint", "revoke", "organizations", "reseal", "restore", "promote"}
)


@dataclass(frozen=True, slots=True)
class Received:
    """A request that was opened: its path, and its call or the reason why it can't be read or is too late."""

    path: str
    opened: Opened
    call: api.Call[Any] | errors.TkdbError

    @property
    def wait_ms(self) -> int:
        """How long its answer may be held back."""
        return self.call.wait_ms if isinstance(self.call, api.Revocations) else 0


class Network:
    """One authority, the ways to it, and the faults on them.

    Args:
        regions: their names.
        clock: the clock.
        random: returns ``n`` random bytes.

    Attributes:
        calls: the calls to the authority, in order.
        faults: the faults by region. The last one counts.
        changes: the number of changes that a long poll may wait for.
        is_closed: whether it carries no more requests.
    """

    def __init__(self, regions: Sequence[str], clock: Clock, random: Callable[[int], bytes]) -> None:
        self.clock = clock
        self.urls = {region: Url.parse(f"http://{region}.{NAME}") for region in regions}
        self.changes = 0
        self.is_closed = False
        self.faults: dict[str, list[Fault]] = {region: [] for region in regions}
        self.calls: list[api.Call[Any]] = []
        self.signer = SignerSecret.generate(random)
        self._signer = Signer("test", self.signer.public, frozenset({ALL}), _EVERYTHING)
        secret = AuthoritySecret.generate(random)
        self.identity = AuthorityIdentity(NAME, (secret.public,))
        self._responder = Responder(NAME, [secret], [self.signer.public], random=random)
        self._book = Book(NAME, authority_clock.Clock(clock.now_ms, clock.monotonic_ms), random)
        self._lock = threading.Lock()
        self._waiting: set[Future[None]] = set()
        clock.on_advance(self.notify)

    def fault(self, url: Url) -> Fault:
        """Return the current fault on the way to ``url``."""
        region = next(region for region, known in self.urls.items() if known == url)
        return (self.faults[region] or [_SOUND])[-1]

    def receive(self, send: Send) -> Received | None:
        """Return the opened request, or None if it can't be opened."""
        with self._lock:
            try:
                opened = self._responder.open(send.path, send.headers, send.message)
            except errors.ChannelError:
                return None
        try:
            check_time(opened.envelope, self.clock.now_ms())
            return Received(send.path, opened, api.decode_request(send.path, opened.envelope.body))
        except errors.TkdbError as error:
            return Received(send.path, opened, error)

    def answer(self, received: Received, *, may_hold: bool, noted: bool) -> bytes | None:
        """Return message 2.

        Args:
            received: the request.
            may_hold: return None instead, while a long poll has no news.
            noted: whether the test sees the call.
        """
        if isinstance(received.call, errors.TkdbError):
            return self.refuse(received, received.call)
        with self._lock:
            position = self._book.state.head.seq
            if noted:
                self.calls.append(received.call)
            try:
                result = self._book.answer(received.call, self._caller(received))
                if may_hold and isinstance(result, api.Feed) and not (result.revocations or result.more):
                    return None
                outcome: dict[str, Any] = {"result": msgspec.Raw(api.encode(result))}
            except errors.TkdbError as error:
                outcome = {"failure": Failure.from_error(error)}
            message = self._sealed(received.opened, **outcome)
            changed = self._book.state.head.seq != position
        if changed:
            self.notify()
        return message

    def refuse(self, received: Received, error: errors.TkdbError) -> bytes:
        """Return a message 2 with ``error``."""
        with self._lock:
            return self._sealed(received.opened, failure=Failure.from_error(error))

    def close(self) -> None:
        """End all waits, and refuse requests from now on."""
        self.is_closed = True
        self.notify()

    def notify(self) -> None:
        """Record a change, so that waiting calls look again."""
        with self._lock:
            self.changes += 1
            waiting, self._waiting = self._waiting, set()
        for each in waiting:
            if each.set_running_or_notify_cancel():
                each.set_result(None)

    def change(self, seen: int) -> Future[None]:
        """Return a future that ends after the next change; ``seen`` is the number of changes so far."""
        waiter: Future[None] = Future()
        with self._lock:
            if self.changes == seen:
                self._waiting.add(waiter)
            else:
                waiter.set_result(None)
        return waiter

    def _sealed(self, opened: Opened, **outcome: Any) -> bytes:
        state = self._book.state
        return opened.seal(api.encode(api.Answer(state.journal, state.head.seq, 0, **outcome)))

    def _caller(self, received: Received) -> Caller:
        envelope = received.opened.envelope
        signer = None if received.opened.signer is None else self._signer
        return Caller(signer, received.path, envelope.request_id, envelope.time_ms, envelope.signature, envelope.body)


class Passing:
    """One request on its way (`faults.Passage`).

    Args:
        network: the network.
        send: the request.
        faulty: whether the test's faults affect it, and the test sees it.
        moves: whether the clock moves if it must wait. If not, other calls move it.
    """

    def __init__(self, network: Network, send: Send, *, faulty: bool = True, moves: bool = True) -> None:
        self._network = network
        self._send = send
        self._faulty = faulty
        self._moves = moves
        self._noted = not faulty
        self._received = network.receive(send)
        self._began_ms = network.clock.monotonic_ms()
        self._hold_ms = 0 if self._received is None else self._received.wait_ms
        self.timeout_ms = send.timeout_ms

    def outcome(self) -> Outcome | None:
        """Return its outcome, or None while something else must happen first."""
        return (self._network.fault(self._send.url) if self._faulty else _SOUND).meet(self)

    def answered(self) -> Outcome | None:
        """Return the authority's answer, or None while it holds it back (a long poll)."""
        while True:
            is_over = self._network.clock.monotonic_ms() - self._began_ms >= self._hold_ms
            message = self._answer(may_hold=not is_over)
            if message is not None:
                return message
            if not self.has_taken(self._hold_ms):
                return None

    def failed(self, error: errors.TkdbError) -> Outcome:
        """Return an answer of the authority with ``error``."""
        if self._received is None:
            return _UNOPENED
        return Answered(self._network.refuse(self._received, error), 0.0)

    def has_taken(self, ms: int) -> bool:
        """Let ``ms`` pass since it was sent. Return False if other calls must make them pass."""
        left_ms = self._began_ms + ms - self._network.clock.monotonic_ms()
        if left_ms > 0 and self._moves:
            self._network.clock.advance(left_ms / 1000)
        return left_ms <= 0 or self._moves

    def _answer(self, *, may_hold: bool) -> Outcome | None:
        if self._received is None:
            return _UNOPENED
        noted, self._noted = not self._noted, True
        message = self._network.answer(self._received, may_hold=may_hold, noted=noted)
        return None if message is None else Answered(message, 0.0)


_UNOPENED: Final = Lost("the answer is a plain HTTP 400, not the authority's", unopened=True)
