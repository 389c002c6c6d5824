"""A write whose outcome is unknown is done once if it is repeated with its request id, from any process."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.test_testing_authority import InProcess
from tkdb import api, errors
from tkdb_client.arguments import request_id_of_part
from tkdb_client.testing import AnswersLost, Authority

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"

Write = Callable[[Authority], tuple[str, tuple[Any, ...], dict[str, Any]]]
WRITES: dict[str, Write] = {
    "create_organization": lambda _: ("create_organization", ("new",), {}),
    "configure_organization": lambda _: ("configure_organization", ("acme",), {"max_lifetime_s": 60}),
    "rotate_key": lambda _: ("rotate_key", ("acme",), {}),
    "delete_organization": lambda _: ("delete_organization", ("other",), {}),
    "revoke": lambda authority: ("revoke", (authority.mint("acme"),), {}),
    "revoke_many": lambda authority: ("revoke_many", ([authority.mint("acme") for _ in range(3)],), {}),
    "revoke_before": lambda _: ("revoke_before", ("acme",), {}),
    "retire_key": lambda authority: ("retire_key", (authority.mint("acme").kid,), {}),
}


@pytest.fixture
def authority() -> Iterator[Authority]:
    with Authority() as authority:
        yield authority


@pytest.fixture(params=["blocking", "awaited"])
def connect(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Callable[[], InProcess]]:
    made: list[InProcess] = []

    def new() -> InProcess:
        """Return a new client, as another process would have it."""
        made.append(InProcess(request.param, authority, signer=authority.signer))
        return made[-1]

    yield new
    for each in made:
        each.close()


def position(client: InProcess) -> int:
    return int(client.call("status").position)


@pytest.mark.parametrize("name", WRITES)
def test_a_write_with_an_unknown_outcome_is_done_once_by_its_id(
    name: str, connect: Callable[[], InProcess], authority: Authority
) -> None:
    method, args, kwargs = WRITES[name](authority)
    before = position(connect())
    with authority.faulty(AnswersLost()), pytest.raises(errors.OutcomeUnknown) as raised:
        connect().call(method, *args, **kwargs)
    request_id = raised.value.request_id
    assert request_id is not None
    assert request_id.hex() in raised.value.hint
    after = position(connect())
    assert after == before + 1
    first = connect().call(method, *args, **kwargs, request_id=request_id)
    assert connect().call(method, *args, **kwargs, request_id=request_id.hex()) == first
    assert first is not True, "the first outcome: nothing had been revoked before"
    assert position(connect()) == after


@pytest.mark.parametrize(("name", "harm"), [("create_organization", errors.Conflict), ("rotate_key", 2)])
def test_without_its_id_a_repeated_write_is_another_one(
    name: str, harm: Any, connect: Callable[[], InProcess], authority: Authority
) -> None:
    """The negative control."""
    method, args, kwargs = WRITES[name](authority)
    before = position(connect())
    with authority.faulty(AnswersLost()), pytest.raises(errors.OutcomeUnknown):
        connect().call(method, *args, **kwargs)
    if harm == 2:
        connect().call(method, *args, **kwargs)
        assert position(connect()) == before + 2
    else:
        with pytest.raises(harm):
            connect().call(method, *args, **kwargs)


def test_a_chosen_id_is_the_one_that_the_error_carries(connect: Callable[[], InProcess], authority: Authority) -> None:
    chosen = os.urandom(16)
    with authority.faulty(AnswersLost()), pytest.raises(errors.OutcomeUnknown) as raised:
        connect().call("rotate_key", "acme", request_id=chosen)
    assert raised.value.request_id == chosen
    assert pickle.loads(pickle.dumps(raised.value)).request_id == chosen  # noqa: S301  made one line above


def test_an_id_belongs_to_one_request(connect: Callable[[], InProcess]) -> None:
    chosen = os.urandom(16)
    connect().call("create_organization", "new", request_id=chosen)
    with pytest.raises(errors.Conflict, match="this request id was used for another request"):
        connect().call("create_organization", "newer", request_id=chosen)


def test_a_call_of_several_requests_is_repeated_as_a_whole(
    connect: Callable[[], InProcess], authority: Authority
) -> None:
    kid = authority.mint("acme").kid
    targets = [api.Lineage(kid=kid, nonce=number.to_bytes(16)) for number in range(api.MAX_TARGETS + 1)]
    chosen, client = os.urandom(16), connect()
    before = position(client)
    for _ in range(2):
        assert client.call("revoke_many", targets, request_id=chosen) is False
        assert position(client) == before + 2
    assert client.call("revoke_many", targets) is True


def test_the_ids_of_parts_differ_and_the_first_is_the_calls_own() -> None:
    ids = [request_id_of_part(bytes(16), part) for part in range(100)]
    assert ids[0] == bytes(16)
    assert len(set(ids)) == 100
    assert {len(each) for each in ids} == {16}


def test_an_unknown_revocation_by_possession_is_harmless_to_repeat(authority: Authority) -> None:
    token = authority.mint("acme")
    client = authority.client()
    with authority.faulty(AnswersLost()), pytest.raises(errors.OutcomeUnknown, match="revoke it again") as raised:
        client.revoke(token)
    assert client.revoke(token, request_id=raised.value.request_id) is True


def test_the_documented_repetition_works(authority: Authority) -> None:
    shown = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    [code] = [block for block in shown if "OutcomeUnknown" in block]

    class LosesOne:
        """A client whose first write has no answer."""

        def __init__(self) -> None:
            self.client, self.ids = authority.client(signer=authority.signer), list[bytes | None]()

        def create_organization(self, name: str, *, request_id: bytes | None = None) -> api.Organization:
            self.ids.append(request_id)
            if len(self.ids) > 1:
                return self.client.create_organization(name, request_id=request_id)
            with authority.faulty(AnswersLost()):
                return self.client.create_organization(name, request_id=request_id)

    tkdb = LosesOne()
    exec(code, {"tkdb": tkdb})  # noqa: S102  the code of the document
    assert tkdb.ids[0] is None
    assert tkdb.ids[1] is not None


def test_the_documented_errors_of_arguments_are_the_real_ones(authority: Authority) -> None:
    [shown] = re.findall(r"^```pycon\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    pairs = re.findall(r"^>>> (.*)\ntkdb\.errors\.(\w+): (.*)$", shown, re.MULTILINE)
    assert len(pairs) == 2
    for code, kind, text in pairs:
        with pytest.raises(getattr(errors, kind)) as raised:
            eval(code, {"tkdb": authority.client(signer=authority.signer)})  # noqa: S307  the code of the document
        assert str(raised.value) == text
