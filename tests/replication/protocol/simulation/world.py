"""A simulated world: hosts, a bucket, a network with loss and delays, and callers. Its seed determines everything."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from tests.replication.protocol.simulation.bucket import Bucket
from tests.replication.protocol.simulation.checker import ALARM, STUCK, Checker
from tests.replication.protocol.simulation.controls import SAFE, Control
from tests.replication.protocol.simulation.host import Host, Todo
from tests.replication.protocol.simulation.journal import EMPTY, OTHER, RECOVER, REVOKE, append
from tkdb.journal.seal import SealKey
from tkdb_replication.protocol import events
from tkdb_replication.protocol.events import Event
from tkdb_replication.protocol.head import HeadKeys, first_head
from tkdb_replication.protocol.reader import Volume
from tkdb_replication.protocol.settings import ProtocolSettings
from tkdb_replication.protocol.state_machine import Role

KEYS = HeadKeys([SealKey(bytes(32))])
BOUND_MS = 150


class World:
    """One schedule. Call ``run``, and then read ``checker.violations``."""

    def __init__(self, seed: int, control: Control = SAFE, *, log: Callable[[int, str], None] | None = None) -> None:
        rnd = Random(seed)
        self.random, self.bytes = rnd.random, rnd.randbytes
        self.control = control
        self._log = log
        self.is_logged = log is not None
        self.now_ms = 0
        self.steps = self.crashes = self.restores = 0
        self.keys = KEYS
        self._queue: list[tuple[int, int, Todo]] = []
        self._queued = 0
        self._draw_conditions()
        node = append(EMPTY, OTHER, now_ms=0, epoch=0)
        self.nodes = {EMPTY.hash: EMPTY, node.hash: node}
        head = first_head(
            journal=b"j" * 16,
            attempt=self.bytes(16),
            owner=self.bytes(16),
            base="e0-first",
            place=node.place,
            epoch=0,
            lease_ms=200,
        )
        self.bucket = Bucket(head, node, KEYS, self.nodes)
        self.checker = Checker(self, node)
        self._kinds: list[bytes] = []
        self._open: list[int] = []
        self._positions: dict[int, int] = {}
        self.bound_ms = BOUND_MS / (1 - self.drift) + 2
        self.hosts: list[Host] = []
        for number in range(self.size):
            volume = Volume(journal=b"j" * 16, rev=0, place=node.place, owner=head.owner) if number == 0 else Volume()
            self.hosts.append(Host(self, number, volume, node if number == 0 else EMPTY))

    def _draw_conditions(self) -> None:
        """Draw the kinds and rates of faults. Some schedules have a single kind, and in some everything fails."""
        random, rough = self.random, 1.0 if self.control.stormy else self.random()
        self.size = (2, 3, 3, 4)[int(random() * 4)]
        self.length_ms = 400 + int(1_600 * random() ** 3) * (4 if random() < 0.1 else 1)
        self.losses = 0.06 * rough * random()
        self.delays = 0.02 + 0.15 * rough * random()
        self.duplicates = 0.1 * random() ** 2
        self.stalls = 0.7 * random() ** 2
        self.faults = 0.03 * rough * random() ** 2
        self.drift = 0.03 * random()
        self.trouble_ms = 120 if self.control.stormy else 250
        self.clocks_stop = self.control.clocks_stop or random() < 0.2
        self.write_ms = 5 + 60 * random()
        self.read_ms = 4 + 20 * random()
        self.moves = 0.05 * random() ** 2
        self.shutdowns = 0.1 * random()
        self.bad_disks = 0.2 * random()
        self.checks_staleness = self.control.clocks_stop or not self.clocks_stop
        self.rolls_back = self.control.bucket_goes_back or random() < 0.04
        self.rolled_back = False
        self.healing = random() < 0.1 and not self.rolls_back
        self._answer_ms = (30, 60, 120)[int(3 * random())]
        self._automatic = random() < 0.95 or self.healing

    def settings(self, number: int) -> ProtocolSettings:
        return ProtocolSettings(
            machine=f"m{number}",
            rank=number,
            automatic=self._automatic,
            bound_ms=BOUND_MS,
            lease_ms=200,
            margin_ms=20,
            rank_ms=20,
            poll_ms=25,
            idle_poll_ms=60,
            in_use_ms=150,
            answer_ms=self._answer_ms,
            sync_ms=60,
            takeover_ms=200,
            unsynced_ms=300,
            sync_pace_ms=20,
            span_ms=30,
            keep_ms=80,
            recent_entries=5,
        )

    # Time and chance.

    def at(self, at_ms: int, todo: Todo) -> None:
        self._queued += 1
        heapq.heappush(self._queue, (at_ms, self._queued, todo))

    def pick(self, below: int) -> int:
        return int(self.random() * below)

    def spread(self, mean_ms: float) -> int:
        return 1 + int(2 * mean_ms * self.random())

    def long_ms(self) -> int:
        return 20 + int(400 * self.random() ** 2)

    def disk_ms(self) -> int:
        return 0 if self.random() < 0.5 else int(6 * self.random())

    def restore_ms(self) -> int:
        return self.long_ms() if self.delays and self.random() < 0.2 else 5 + int(20 * self.random())

    def refold_ms(self) -> int:
        return self.long_ms() if self.delays and self.random() < 0.1 else self.disk_ms()

    def fault_occurs(self) -> bool:
        return self.random() < self.faults

    def staleness_ms(self) -> int:
        return int(250 * self.random()) if self.control.eventual_reads and self.random() < 0.3 else 0

    def note(self, text: str) -> None:
        if self._log is not None:
            self._log(self.now_ms, text)

    # The network.

    def _delay_ms(self) -> int:
        return 1 + int(5 * self.random()) if self.random() >= self.delays else self.long_ms()

    def send(self, todo: Todo) -> None:
        if self.random() >= self.losses:
            self.at(self.now_ms + self._delay_ms(), todo)

    def answer(self, event: Event, back: Callable[[Event, int], None]) -> None:
        if self.random() >= self.losses:
            back(event, self._delay_ms())

    # Callers.

    def _request(self) -> int:
        """Return a new request, or one whose answer the caller has never got."""
        if self._open and self.random() < 0.5:
            return self._open[self.pick(len(self._open))]
        draw = self.random()
        self._kinds.append(REVOKE if draw < 0.75 else OTHER if draw < 0.95 else RECOVER)
        self._open.append(len(self._kinds) - 1)
        return self._open[-1]

    def _some_primary(self) -> Host:
        """Return a primary, or any machine if there is none."""
        primaries = [host for host in self.hosts if host.up and host.machine.role is Role.PRIMARY]
        return primaries[self.pick(len(primaries))] if primaries else self.hosts[self.pick(self.size)]

    def _next_write(self) -> None:
        several = 2 + self.pick(3) if self.random() < 0.2 else 1
        requests = {request: self._kinds[request] for request in [self._request() for _ in range(several)]}
        host = self._some_primary()
        if host.up:
            self.note(f"requests {requests} go to m{host.number}")
            host.soon(1 + int(4 * self.random()), lambda: host.write(requests))
        self.at(self.now_ms + self.spread(self.write_ms), self._next_write)

    def acknowledged(self, host: Host, request: int, seq: int) -> None:
        self.note(f"m{host.number} acknowledges request {request} at {seq}")
        revokes = self._kinds[request] == REVOKE
        self.checker.check_acknowledgement(request, revokes=revokes, seq=seq)
        if revokes:
            self._positions[request] = seq
        if request in self._open and self.random() < 0.8:  # otherwise the answer is lost, and the caller repeats it
            self._open.remove(request)

    def _next_read(self) -> None:
        host = self.hosts[self.pick(self.size)]
        if host.up:
            target = list(self._positions)[self.pick(len(self._positions))] if self._positions else None
            position = self._positions.get(target, 0) if target is not None else 0
            sent_ms = self.now_ms
            if self.now_ms >= host.paused_until_ms and self.random() < 0.7:
                host.read(sent_ms, position, target)
            else:
                host.soon(self._delay_ms(), lambda: host.read(sent_ms, position, target))
        self.at(self.now_ms + self.spread(self.read_ms), self._next_read)

    def reply(self, served: Any, age_ms: int, sent_ms: int) -> None:
        """Send an answer to a reader, who adds the time since the request, and accepts nothing past the bound."""

        def arrive() -> None:
            if self.now_ms - sent_ms + age_ms <= BOUND_MS:
                self.checker.check_answer(served, bound=self.checks_staleness, at_ms=self.now_ms)

        if self.random() < 0.7:
            arrive()
        else:
            self.at(self.now_ms + self._delay_ms(), arrive)

    def alarm(self, host: Host, error: Exception) -> None:
        self.note(f"m{host.number} alarm: {error}")
        if not self.control.eventual_reads:
            self.checker.flag(ALARM, str(error))

    # Faults, and their end.

    def _next_trouble(self) -> None:
        host = self._some_primary() if self.random() < 0.3 else self.hosts[self.pick(self.size)]
        if host.up:
            draw = self.random()
            if draw < 0.35:
                host.crash(disk_lost=self.random() < 0.4)
            elif draw < 0.35 + self.bad_disks:
                host.fail_disk(100 + 2 * self.long_ms())
            elif draw < 0.9 - 5 * self.moves - self.shutdowns:
                host.pause(self.long_ms())
            elif self.now_ms < host.paused_until_ms:
                pass
            elif draw >= 1 - self.shutdowns:
                host.shut_down()
            else:
                move = events.HandOver((), ("m0", "m1")[self.pick(2)])
                host.on(events.Promote(()) if self.random() < 0.3 else move)
        self.at(self.now_ms + self.spread(self.trouble_ms), self._next_trouble)

    def _roll_back(self) -> None:
        """Put an older copy of the head back into the bucket."""
        self.rolled_back = True
        self.bucket.go_back(self.pick(len(self.bucket.history)))
        self.note(f"the bucket goes back to rev {self.bucket.head.rev}")

    def _next_upload(self) -> None:
        """Let each Litestream upload, as its own timer does."""
        for host in self.hosts:
            if host.litestream is not None:
                host.capture(host.litestream)
        self.at(self.now_ms + self.spread(60), self._next_upload)

    def run(self) -> None:
        """Run the schedule to its end, or to the first violation."""
        self.at(self.spread(self.write_ms), self._next_write)
        self.at(self.spread(self.read_ms), self._next_read)
        self.at(self.spread(self.trouble_ms), self._next_trouble)
        self.at(self.spread(60), self._next_upload)
        if self.rolls_back:
            self.at(self.pick(self.length_ms), self._roll_back)
        self._run_to(self.length_ms)
        if self.healing and not self.checker.violations:
            self._heal()

    def _run_to(self, end_ms: int) -> None:
        queue, violations = self._queue, self.checker.violations
        while queue and not violations:
            at_ms, _, todo = heapq.heappop(queue)
            if at_ms > end_ms:
                heapq.heappush(queue, (at_ms, 0, todo))
                break
            self.now_ms = at_ms
            todo()

    def _heal(self) -> None:
        """End all faults. Soon one primary must acknowledge writes, and every machine must be fresh."""
        self.note("all faults end")
        self.losses = self.delays = self.duplicates = self.faults = self.stalls = self.bad_disks = 0.0
        self._next_trouble = lambda: None  # type: ignore[method-assign]
        self._run_to(self.now_ms + 1_500)
        done = len(self._positions)
        self._run_to(self.now_ms + 800)
        if self.checker.violations:
            return
        primaries = [host for host in self.hosts if host.machine.role is Role.PRIMARY]
        ages = [host.machine.age_ms(host.clock_ms()) for host in self.hosts]
        fresh = all(age_ms is not None and age_ms <= BOUND_MS for age_ms in ages)
        if len(primaries) != 1 or len(self._positions) == done or not fresh:
            self.checker.flag(STUCK, f"{len(primaries)} primaries, ages {ages}")
