"""No repr shows a token or a secret: a log, a traceback or a debugger may print any object."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest

from tests.forks.child import FRAMEWORKS, PACKAGES
from tkdb import api
from tkdb.channel.client import Initiator
from tkdb.channel.envelope import Envelope
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.channel.server import Responder
from tkdb.journal.seal import SealKey, SealKeys
from tkdb.macaroon.token import Macaroon
from tkdb.ports import Caller
from tkdb.settings import Address, Settings
from tkdb.signers import Signers

SECRET_NAMES: Final = frozenset(
    {
        *("body", "bundle", "bundles", "headers", "payload", "raw", "tail", "text", "token", "tokens"),
        *("access_key_id", "authorization", "env", "environment", "password", "secret"),
        *("secret_access_key", "session_token"),
    }
)
"""The names of fields that may contain a token or a secret."""

HARMLESS: Final = {
    ("tkdb.cli.output", "Marked", "text"): "it is printed anyway",
    ("tkdb_client.web.rejection", "Answer", "headers"): "an app's answer to a rejected request",
    ("tkdb_client.web.rejection", "Answer", "body"): "an app's answer to a rejected request",
    ("tkdb_replication.bucket.http", "Response", "headers"): "the object store's answer",
    ("tkdb_replication.bucket.s3", "_Answer", "headers"): "the object store's answer",
    ("tkdb_ops.drills.record", "CallRecord", "token"): "a token's number",
    ("tkdb_ops.drills.record", "WriteRecord", "token"): "a token's number",
    ("tkdb_ops.drills.record", "Event", "text"): "a drill's report",
}


def classes() -> Iterator[type]:
    """Yield every dataclass and struct of the project, but not a macaroon, whose repr needs a real one."""
    for package in map(importlib.import_module, PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] in {"__main__", "end_with_parent", *FRAMEWORKS}:
                continue
            for each in vars(importlib.import_module(found.name)).values():
                if isinstance(each, type) and each.__module__ == found.name and _fields(each) and each is not Macaroon:
                    yield each


def _fields(kind: type) -> list[str]:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return list(kind.__struct_fields__) if issubclass(kind, msgspec.Struct) else []


class Value(str):
    """A value that is text, and that a repr can treat as bytes."""

    __slots__ = ()

    def hex(self) -> str:
        return self


def shown(kind: type) -> set[str]:
    """Return the fields of secret names whose values are in the repr of an instance of ``kind``."""
    names = _fields(kind)
    if not SECRET_NAMES & set(names):
        return set()
    values = {name: Value(f"<{name}>") for name in names}
    if dataclasses.is_dataclass(kind):
        made: Any = object.__new__(kind)  # its constructor may check the values
        for name, value in values.items():
            object.__setattr__(made, name, value)
    else:
        made = kind(**values)
    return {name for name in SECRET_NAMES & set(names) if values[name] in repr(made)}


def test_no_repr_shows_a_field_that_may_contain_a_secret() -> None:
    found = {(kind.__module__, kind.__name__, name) for kind in classes() for name in shown(kind)}
    assert found == set(HARMLESS)


def test_a_class_without_care_for_its_repr_is_found() -> None:
    """The negative control of the previous test."""

    class Careless(msgspec.Struct):
        body: bytes

    @dataclasses.dataclass
    class AlsoCareless:
        token: str

    assert (shown(Careless), shown(AlsoCareless)) == ({"body"}, {"token"})


def test_the_objects_of_a_request_show_neither_its_token_nor_a_key() -> None:
    authority, signer = AuthoritySecret.generate(os.urandom), SignerSecret.generate(os.urandom)
    seal = SealKey(os.urandom(32))
    identity = AuthorityIdentity("tkdb.example", (authority.public,))
    token, path = "tkdb_planted", api.VERIFY
    initiator = Initiator(identity, signer=signer, random=os.urandom)
    responder = Responder("tkdb.example", [authority], [signer.public], random=os.urandom)
    call = api.RevokeOwn(token)
    sealed = initiator.seal(path, api.encode(call), request_id=bytes(16), now_ms=1)
    opened = responder.open(path, sealed.headers, sealed.message)
    envelope: Envelope = opened.envelope
    caller = Caller(None, path, envelope.request_id, envelope.time_ms, envelope.signature, envelope.body)
    address = Address.parse("127.0.0.1:0")
    settings = Settings("tkdb.example", (authority,), SealKeys([seal]), Signers([]), ":memory:", address)
    objects = [call, api.Verify([token]), api.Minted(token, 1), sealed, opened, envelope, caller, initiator, responder]
    for each in [*objects, settings, authority, signer, seal, authority.pair, signer.pair]:
        text = f"{each!r} {each}"
        for secret in (token, authority.text(), signer.text(), seal.text()):
            assert secret not in text
            assert secret.partition("_")[2] not in text


@pytest.mark.parametrize("token", ["tkdb_planted"])
def test_an_answer_shows_no_minted_token(token: str) -> None:
    answer = api.Answer(bytes(16), 1, 1, result=msgspec.Raw(api.encode(api.Minted(token, 1))))  # type: ignore[arg-type]
    assert token not in repr(answer)
