"""The authority for the tests of apps: it decides like the real authority, and injects faults on request."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import pytest

from tests.client.conftest import Caller
from tests.waiting import until
from tkdb import api, errors
from tkdb.channel.keys import SignerSecret
from tkdb.macaroon.caveats import Act, Sub
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import encode_text
from tkdb_client import Access, Policy
from tkdb_client.calls.effects import Background, Steps
from tkdb_client.testing import AnswersLost, Authority, Down, Failing, Fault, Silent, Slow, Stale
from tkdb_client.testing.authority import BOUND_S


class InProcess(Caller):
    """A client of a testing authority, of either kind, with one interface."""

    def __init__(self, kind: str, authority: Authority, **settings: object) -> None:
        self._runner = asyncio.Runner() if kind == "awaited" else None
        make = authority.async_client if self._runner else authority.client
        self.client = make(**settings)  # type: ignore[arg-type]  # The test passes valid settings.

    def run(self, begun: Any) -> None:
        """Run to its end what a driver has started."""
        if self._runner is not None:
            self._runner.run(begun)

    def settle(self, condition: Callable[[], bool]) -> None:
        """Let background work run until ``condition`` is true."""
        end_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end_s
            if self._runner is not None:
                self._runner.run(asyncio.sleep(0.001))
            else:
                time.sleep(0.001)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def authority() -> Iterator[Authority]:
    with Authority("acme", "evil", regions=("iad", "syd")) as authority:
        yield authority


@pytest.fixture(params=["blocking", "awaited"])
def client(request: pytest.FixtureRequest, authority: Authority) -> Iterator[InProcess]:
    with InProcess(request.param, authority, signer=authority.signer) as client:
        yield client


def test_a_token_verifies_clears_and_is_denied_as_in_production(client: InProcess, authority: Authority) -> None:
    token = authority.mint("acme", Sub("kim"), action="r")
    verified = client.call("verify", token)
    assert (verified.organization, verified.subject) == ("acme", "kim")
    verified.clear(Access(organization="acme", action="r"))
    with pytest.raises(errors.CaveatUnmet):
        verified.clear(Access(organization="acme", action="w"))
    with pytest.raises(errors.BadSignature):
        client.call("verify", encode_text(token.raw[:-1] + bytes([token.raw[-1] ^ 1])))


def test_every_way_to_revoke_denies_the_token(client: InProcess, authority: Authority) -> None:
    ways = {
        "lineage": lambda token: client.call("revoke", token),
        "organization": lambda token: client.call("revoke_before", "acme"),
        "key": lambda token: client.call("retire_key", token.kid),
        "by its holder": lambda token: InProcess("blocking", authority).call("revoke", token),
    }
    for way, revoke in ways.items():
        token = authority.mint("acme")
        client.call("verify", token)
        revoke(token)
        authority.clock.advance(BOUND_S)  # The token may be in the client's cache.
        with pytest.raises(errors.Denied) as caught:
            client.call("verify", token)
        assert caught.value.reason in {errors.Reason.REVOKED, errors.Reason.UNKNOWN_KEY}, way


def test_revoking_a_child_leaves_its_parent_valid(client: InProcess, authority: Authority) -> None:
    token = authority.mint("acme")
    child = token.narrow(Act("r"))
    assert authority.revoke(child) is False
    assert authority.revoke(child) is True
    client.call("verify", token)
    with pytest.raises(errors.RevokedToken):
        client.call("verify", child)


def test_the_test_moves_the_clock_and_tokens_expire_by_it(client: InProcess, authority: Authority) -> None:
    token = authority.mint("acme", expires_in_s=60)
    client.call("verify", token).clear(Access(organization="acme"))
    authority.clock.advance(60)
    client.call("verify", token).clear(Access(organization="acme"))
    authority.clock.advance(1)
    with pytest.raises(errors.ExpiredToken):
        client.call("verify", token).clear(Access(organization="acme"))
    with pytest.raises(errors.ConfigurationError, match="seconds=-1 is not a duration"):
        authority.clock.advance(-1)


def test_organizations_are_administered_and_restored(client: InProcess, authority: Authority) -> None:
    client.call("create_organization", "new", max_lifetime_s=60)
    assert [each.name for each in client.list("list_organizations")] == ["acme", "evil", "new"]
    position = client.call("status").position
    client.call("rotate_key", "new")
    client.call("configure_organization", "new", max_lifetime_s=30)
    client.call("restore", seq=position)
    assert [each.max_lifetime_s for each in client.list("list_organizations") if each.name == "new"] == [60]
    client.call("delete_organization", "new")
    with pytest.raises(errors.NotFound):
        authority.mint("new")
    assert client.call("reseal") == 0


def test_a_client_without_a_signers_key_cannot_mint(authority: Authority) -> None:
    with pytest.raises(errors.ConfigurationError, match="signer"):
        authority.client().mint("acme")


def test_environment_variables_for_another_authority_are_ignored(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TKDB_SIGNER", SignerSecret.generate(os.urandom).text())
    monkeypatch.setenv("TKDB_URL", "http://tkdb.flycast")
    token = authority.mint("acme")
    assert authority.client().revoke(token) is False, "the client must revoke by possession, without a signer's key"


def test_the_policy_of_an_app_is_used_except_for_its_clock(authority: Authority) -> None:
    client = authority.client(policy=Policy(organization="acme", clock=lambda: 0.0, audience="shop"))
    client.verify(authority.mint("acme", audience="shop")).clear(Access(organization="acme"))
    with pytest.raises(errors.CaveatUnmet):
        client.verify(authority.mint("acme", audience="billing")).clear(Access(organization="acme"))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Down(), errors.DeadlineExceeded),
        (Silent(), errors.DeadlineExceeded),
        (Slow(60_000), errors.DeadlineExceeded),
        (AnswersLost(), errors.DeadlineExceeded),
        (Stale(), errors.StaleAuthority),
        (Failing(errors.Overloaded("too much at once")), errors.Overloaded),
        (Failing(errors.NotPermitted("no")), errors.NotPermitted),
    ],
    ids=lambda each: type(each).__name__ if not isinstance(each, type) else each.__name__,
)
def test_a_fault_in_every_region_ends_a_call_by_the_test_clock(
    client: InProcess, authority: Authority, fault: Fault, error: type[errors.TkdbError]
) -> None:
    token = authority.mint("acme")
    began_s = authority.clock.now_s()
    with authority.faulty(fault), pytest.raises(error):
        client.call("verify", token)
    assert authority.clock.now_s() - began_s <= 10
    client.call("verify", token)


def test_calls_avoid_a_region_that_is_down(client: InProcess, authority: Authority) -> None:
    token = authority.mint("acme")
    with authority.faulty(Down(), "iad"):
        client.call("verify", token)
        assert [each.fault == "" for each in client.call("regions")] == [True, False]
    with (
        pytest.raises(errors.ConfigurationError, match="regions='mars' is not a region"),
        authority.faulty(Down(), "mars"),
    ):
        pass


def test_a_slow_answer_advances_the_clock_without_a_real_wait(client: InProcess, authority: Authority) -> None:
    token = authority.mint("acme")
    began_s = authority.clock.now_s()
    with authority.faulty(Slow(700)):
        client.call("verify", token)
    assert authority.clock.now_s() - began_s == pytest.approx(0.7)


def test_a_write_with_a_lost_answer_is_done_once_by_its_request_id(client: InProcess, authority: Authority) -> None:
    with authority.faulty(AnswersLost()), pytest.raises(errors.OutcomeUnknown):
        client.call("create_organization", "new")
    with pytest.raises(errors.Conflict):
        client.call("create_organization", "new")
    with authority.faulty(AnswersLost(), "iad"):
        client.call("create_organization", "newer")  # iad has done it, and syd returns the outcome.


def test_calls_contains_the_requests_of_the_app_and_not_those_of_the_test(
    client: InProcess, authority: Authority
) -> None:
    tokens = [authority.mint("acme") for _ in range(2)]
    for token in tokens:
        client.call("verify", token)
    asked = [
        call for call in authority.calls if isinstance(call, api.Verify)
    ]  # Clients also probe and follow the feed.
    assert asked == [api.Verify(bundles=[token.text]) for token in tokens]


def following(client: Any, token: Macaroon, after: int, results: list[Any]) -> Steps[None]:
    """Start a long poll in the background, as a client's cache does."""

    def poll() -> Steps[None]:
        result: Any = None
        try:
            result = yield from client._operations.revocations([token.kid], after=after, wait_ms=3_000)
        except errors.TkdbError as error:
            result = error
        finally:
            results.append(result)

    yield Background(poll())


def test_background_polls_wait_for_the_test_and_never_advance_the_clock(
    client: InProcess, authority: Authority
) -> None:
    token, results, began_s = authority.mint("acme"), list[Any](), authority.clock.now_s()
    driver = client.client._driver

    def polls() -> int:
        return sum(isinstance(call, api.Revocations) and call.wait_ms == 3_000 for call in authority.calls)

    def until(count: int, act: Callable[[], object]) -> None:
        after, before = authority._operator.status().position, polls()
        client.run(driver.run(following(client.client, token, after, results)))
        client.settle(lambda: polls() > before)
        assert len(results) == count - 1
        assert authority.clock.now_s() == began_s
        act()
        client.settle(lambda: len(results) == count)

    def pass_time() -> None:
        nonlocal began_s
        authority.clock.advance(3_600)  # The poll was sent in time, however late the answer is.
        began_s += 3_600

    until(1, pass_time)
    assert results[0].revocations == []
    with authority.faulty(AnswersLost()):
        until(2, lambda: authority.clock.advance(20))
        assert isinstance(results[1], errors.Unavailable)
    began_s = authority.clock.now_s()
    until(3, lambda: InProcess("blocking", authority, signer=authority.signer).call("revoke", token))
    assert results[2].revocations == [api.Lineage(kid=token.kid, nonce=token.nonce)]
    until(4, lambda: client.call("close"))
    assert results[3] is None


def test_an_explicit_long_poll_advances_the_clock_without_a_real_wait(client: InProcess, authority: Authority) -> None:
    token, began_s = authority.mint("acme"), authority.clock.now_s()
    after = client.call("status").position
    assert client.call("revocations", [token.kid], after=after, wait_ms=5_000).revocations == []
    assert authority.clock.now_s() == began_s + 5


def test_a_token_of_another_authority_is_denied(authority: Authority) -> None:
    with pytest.raises(errors.UnknownKey):
        authority.client().verify(Authority("acme").mint("acme"))


def test_background_work_of_clients_ends_with_their_authority() -> None:
    before = set(threading.enumerate())
    with Authority("acme") as authority:
        client = authority.client()  # The test doesn't close it.
        client.verify(token := authority.mint("acme"))
        until(lambda: isinstance(authority.calls[-1], api.Revocations))
        assert set(threading.enumerate()) - before
    until(lambda: not set(threading.enumerate()) - before)
    with pytest.raises(errors.ConfigurationError, match="authority is closed"):
        client.revoke(token)


def test_the_testing_authority_refuses_to_run_in_production() -> None:
    with pytest.raises(errors.ConfigurationError, match="Fly Machine"):
        Authority(environ={"FLY_MACHINE_ID": "4d891d7e"})


def test_the_testing_authority_needs_only_the_base_install() -> None:
    code = (
        "import sys\n"
        "for name in ('aiosqlite', 'starlette', 'hypercorn', 'uvloop', 'rich', 'typer'): sys.modules[name] = None\n"
        "from tkdb_client.testing import Authority\n"
        "authority = Authority('acme')\n"
        "print(authority.client().verify(authority.mint('acme')).organization)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("acme\n", 0), done.stderr


def test_importing_the_client_does_not_load_the_testing_authority() -> None:
    code = "import sys, tkdb_client; print([name for name in sys.modules if 'testing' in name or 'authority' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_threads_and_an_event_loop_share_one_authority(authority: Authority) -> None:
    token = authority.mint("acme")
    client = authority.client()
    with ThreadPoolExecutor(4) as threads, InProcess("awaited", authority) as awaited:
        verifying = [threads.submit(client.verify, token) for _ in range(20)]
        awaited.call("verify", token)
        assert {each.result(30).organization for each in verifying} == {"acme"}
