"""An unknown key in a batch: the results of the others aren't held back, and the unknown one isn't denied too early."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tkdb import api, errors
from tkdb.errors import Reason
from tkdb_replication.node import node as node_module
from tkdb_replication.node.node import COME_TO_MS, Node
from tkdb_replication.protocol.state_machine import Role

ASKED_MS = 1_000_000


class FakeAuthority:
    """Knows the keys of all bundles, but not of those that begin with "new"."""

    def __init__(self) -> None:
        self.position = 5
        self.unknown = "new"

    async def answer(self, call: api.Verify, _caller: object) -> api.Verified:
        return api.Verified(
            [
                api.Invalid(Reason.UNKNOWN_KEY, "no such key") if bundle.startswith(self.unknown) else api.Valid("acme")
                for bundle in call.bundles
            ]
        )


class FakeMachine:
    """A machine that has read the head 100 ms before the request, and reads it again ``reads_after_ms`` after it."""

    def __init__(self, authority: FakeAuthority, role: Role, reads_after_ms: int) -> None:
        self.role = role
        self.now_ms = ASKED_MS
        self.waits = 0
        self._authority = authority
        self._reads_at_ms = ASKED_MS + reads_after_ms

    def age_ms(self, now_ms: int) -> int:
        return now_ms - (self._reads_at_ms if now_ms >= self._reads_at_ms else ASKED_MS - 100)

    def require_fresh(self, _now_ms: int) -> None:
        """It always is."""

    def wait(self, at_most_ms: int) -> None:
        self.waits += 1
        self.now_ms += min(at_most_ms, 250)
        if self.now_ms >= self._reads_at_ms:
            self._authority.position, self._authority.unknown = 6, "never"


class FakeDriver:
    """Serves the authority's position. Time passes while it waits."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine

    @property
    def shown(self) -> Any:
        return SimpleNamespace(seq=self.machine._authority.position)

    def asked(self) -> None:
        """It is awake."""

    async def wait_news(self, at_most_ms: int) -> None:
        self.machine.wait(at_most_ms)


def verify(*bundles: str, role: Role = Role.REPLICA, reads_after_ms: int = 250) -> tuple[list[str], int]:
    """Return the kinds of the results, and how often the machine waited for them."""

    async def answer() -> Any:
        authority = FakeAuthority()
        machine = FakeMachine(authority, role, reads_after_ms)
        machines.append(machine)
        driver: Any = FakeDriver(machine)
        clock: Any = SimpleNamespace(monotonic_ms=lambda: machine.now_ms)
        fit = asyncio.get_running_loop().create_future()
        node = Node(authority, SimpleNamespace(), driver, fit, clock)  # type: ignore[arg-type]  # fakes
        return await node.answer(api.Verify(bundles=list(bundles)), None)  # type: ignore[arg-type]  # no caller needed

    machines: list[FakeMachine] = []
    return [type(each).__name__ for each in asyncio.run(answer()).results], machines[0].waits


def test_an_unknown_key_holds_back_only_its_own_result() -> None:
    assert verify("good", "new", "good", reads_after_ms=60_000) == (["Valid", "Unsure", "Valid"], 0)


def test_a_new_key_alone_is_known_as_soon_as_the_machine_has_read_again() -> None:
    assert verify("new") == (["Valid"], 1)
    assert verify("new", "new 2") == (["Valid", "Valid"], 1)


def test_a_key_alone_that_stays_unknown_without_a_read_is_no_denial() -> None:
    with pytest.raises(errors.Unavailable, match="doesn't know the key"):
        verify("new", reads_after_ms=COME_TO_MS + 1)


def test_a_primary_denies_an_unknown_key_at_once() -> None:
    assert verify("good", "new", role=Role.PRIMARY) == (["Valid", "Invalid"], 0)
    assert verify("new", role=Role.PRIMARY) == (["Invalid"], 0)


def test_without_the_rule_one_unknown_key_fails_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the machine waits for the key while it holds all results back."""
    monkeypatch.setattr(node_module, "all", lambda missing: any(missing), raising=False)
    with pytest.raises(errors.Unavailable, match="doesn't know the key"):
        verify("good", "new", "good", reads_after_ms=COME_TO_MS + 1)
