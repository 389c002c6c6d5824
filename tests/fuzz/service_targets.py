"""Readers of bytes from callers, signers, operators and other machines: requests, the channel, keys, configuration,
the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import msgspec

from tests.fuzz.target import Target
from tests.fuzz.token_targets import TEXT_WORDS, text_of
from tests.journal.scribe import OLD_RING, Scribe, nonce_at
from tkdb import api, errors
from tkdb.armor import armor
from tkdb.channel import noise
from tkdb.channel.client import Initiator
from tkdb.channel.envelope import Envelope, decode, encode, prologue
from tkdb.channel.keys import AuthorityIdentity, AuthorityPublic, AuthoritySecret, SignerPublic, SignerSecret
from tkdb.channel.padding import pad, unpad
from tkdb.channel.server import Responder
from tkdb.errors import BrokenJournal, ChannelError, ConfigurationError, InvalidRequest, StoreError
from tkdb.failure import Failure
from tkdb.journal.additions import (
    Created,
    Genesis,
    Purged,
    Recovered,
    Replaced,
    Replacement,
    Resealed,
    Restored,
    Rotated,
    decode_made,
    encode_made,
)
from tkdb.journal.entry import decode_entry, encode_entry
from tkdb.journal.fold import changes
from tkdb.journal.seal import SealKey
from tkdb.settings import Settings
from tkdb.signers import Signers

NAME = "tkdb.example"
NOW_MS = 1_700_000_000_000
FIELD = b"\x1e"
KID, NONCE = b"k" * 16, nonce_at(NOW_MS)
RANDOM = Random(0).randbytes
MSGPACK_WORDS = (
    b"\xc0", b"\xc2", b"\xc3", b"\xcb" + b"\xff" * 8, b"\xcf" + b"\xff" * 8, b"\xd3" + b"\x80" * 8, b"\xd9\xff",
    b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01", b"\x91" * 300, b"\x81\xa1a" * 300, b"\x90", b"\x80", b"\xa0", b"\xc4\x10" + KID,
    b"\xd6\xff" + bytes(4), b"\xa1\xff", b"\xa6method", b"\xa4type", b"\xa6revoke", b"\xa4acme",
)  # fmt: skip

CALLS: dict[str, list[bytes]] = {
    api.VERIFY: [
        api.encode(api.Verify(["tkdb_a", "tkdb_b"])), api.encode(api.Revocations([KID], 5, 9)), api.encode(api.Status())
    ],
    api.REVOKE: [api.encode(api.RevokeOwn("tkdb_a"))],
    api.SIGN: [api.encode(api.Mint("acme", [b'["act","r"]'], 60)), api.encode(api.ListOrganizations("acme", 5))],
    api.WRITE: [
        api.encode(call)
        for call in (
            api.CreateOrganization("other", 60), api.ConfigureOrganization("acme", 60), api.RotateKey("acme"),
            api.DeleteOrganization("acme"), api.Reseal(5), api.Revoke([api.Lineage(KID, NONCE)]),
            api.Revoke([api.Before("acme", 5, "kim"), api.RetireKey(KID), api.Branch(KID, NONCE, KID)]),
            api.Restore(seq=5), api.Restore(at_ms=5),
        )
    ],
}  # fmt: skip
MADE = [
    encode_made(made)
    for made in (
        Genesis(KID, NAME, b"sealed"), Created(KID, b"sealed", 60), Rotated(KID, b"sealed"), Purged(),
        Replaced([Replacement("acme", KID, b"sealed")]), Resealed([(KID, b"sealed")], [(1, b"sealed")], b"sealed"),
        Restored(5, [("acme", 60)], ["other"], [KID], [KID]), Recovered(KID, [(1, b"sealed")], b"sealed"),
    )
]  # fmt: skip
ANSWERS = [
    api.encode(api.Answer(KID, 3, 250, msgspec.Raw(api.encode(api.Revoked(already=True))))),
    api.encode(api.Answer(KID, 3, 250, failure=Failure("revoked", "what", "try", 3, 5))),
    api.encode(api.Answer(KID, 3, 250, msgspec.Raw(api.encode(api.Verified([api.Valid("acme")]))))),
]


# --- the methods ------------------------------------------------------------------------------------------------


def read_request(path: str, data: bytes) -> None:
    call = api.decode_request(path, data)
    assert api.decode_request(path, api.encode(call)) == call


def read_answer(data: bytes) -> None:
    answer = api.decode_answer(data)
    calls: list[api.Call[Any]] = [api.Status(), api.RevokeOwn("tkdb_a"), api.Verify(["tkdb_a"])]
    for call in calls:
        with suppress(ChannelError, errors.Denied, errors.Refused, errors.Unavailable):
            api.decode_result(call, answer)


# --- the channel ------------------------------------------------------------------------------------------------

AUTHORITY, SIGNER = AuthoritySecret.generate(RANDOM), SignerSecret.generate(RANDOM)
IDENTITY = AuthorityIdentity(NAME, (AUTHORITY.public,))
INITIATOR = Initiator(IDENTITY, signer=SIGNER, random=RANDOM)
RESPONDER = Responder(NAME, [AUTHORITY], [SIGNER.public], random=RANDOM)
STATICS = noise.Statics(SIGNER.pair, AUTHORITY.public.point)
SEALED = {path: INITIATOR.seal(path, bodies[0], request_id=KID, now_ms=NOW_MS) for path, bodies in CALLS.items()}
ENVELOPES = [encode(Envelope(NOW_MS, KID, 5, body)) for bodies in CALLS.values() for body in bodies]
ENVELOPES.append(encode(Envelope(NOW_MS, KID, 5, b"body", bytes(64))))


def open_message(path: str, data: bytes) -> None:
    """Open a message 1 that an attacker on the network may have changed."""
    opened = RESPONDER.open(path, SEALED[path].headers, data)
    assert data == SEALED[path].message
    assert opened.envelope.body == CALLS[path][0]


def open_payload(path: str, data: bytes) -> None:
    """Open and read any payload, sealed by a caller that follows Noise and nothing else."""
    initiate = noise.initiate_kk if path in api.SIGNED_PATHS else noise.initiate_ik
    message, _ = initiate(prologue(path, NAME), STATICS, data, RANDOM)
    opened = RESPONDER.open(path, SEALED[path].headers, message)
    assert path not in api.SIGNED_PATHS  # on a signed path, the responder refuses the invalid signature
    api.decode_request(path, opened.envelope.body)


def open_answer(data: bytes) -> None:
    sealed = INITIATOR.seal(api.VERIFY, b"body", request_id=KID, now_ms=NOW_MS)
    sealed.open(data)
    raise AssertionError("an answer to another request was opened")


def read_envelope(data: bytes) -> None:
    envelope = decode(data)
    assert decode(encode(envelope)) == envelope


def read_padding(data: bytes) -> None:
    assert pad(unpad(data)) == data


# --- keys and configuration -------------------------------------------------------------------------------------

KEYS: list[tuple[Callable[[str], object], str]] = [
    (AuthoritySecret.parse, "tkdbauth_"),
    (AuthorityPublic.parse, "tkdbpub_"),
    (SignerSecret.parse, "tkdbsigner_"),
    (SignerPublic.parse, "tkdbsignerpub_"),
    (SealKey.parse, "tkdbseal_"),
    (AuthorityIdentity.parse, "tkdb.example=tkdbpub_"),
]
KEY_TEXTS = [AUTHORITY.text(), AUTHORITY.public.text(), SIGNER.text(), SIGNER.public.text(), IDENTITY.text()]
KEY_TEXTS += [IDENTITY.text() + "," + AUTHORITY.public.text(), SealKey(bytes(32)).text()]
SIGNERS = (
    f'[[signer]]\nname = "api"\nkey = "{SIGNER.public.text()}"\norganizations = ["acme"]\nmay = ["mint", "revoke"]\n'
)
TOML_WORDS = (
    *b"""[[signer]] [signer] name = "" ''' "*" [ ] {} 1e400 nan inf true # 1979-05-27T07:32:00Z a.b.c=1""".split(),
    b"\n", b"\\u0000", b"0x" + b"f" * 300, b"9" * 5000, b"[" * 300, b"\xc3\xa9", b"\xff",
)  # fmt: skip
ENVIRONMENT = FIELD.join(
    f"{name}={value}".encode()
    for name, value in {
        "TKDB_NAME": NAME, "TKDB_AUTHORITY_KEY": AUTHORITY.text(), "TKDB_SEAL_KEYS": SealKey(bytes(32)).text(),
        "TKDB_SIGNERS": SIGNERS, "TKDB_DB": "/data/tkdb.db", "TKDB_BIND": "[::1]:8080", "TKDB_MAX_LIFETIME_S": "60",
        "TKDB_DRAIN_MS": "5", "TKDB_LOG_LEVEL": "info", "FLY_REGION": "iad",
    }.items()
)  # fmt: skip


def sealed(prefix: str, data: bytes) -> str:
    name, equals, kind = prefix.rpartition("=")
    return name + equals + armor(kind, data)


def read_keys(data: bytes) -> str:
    """Parse the text as it is, and the bytes with a correct checksum, as each kind of key."""
    read = []
    for parse, prefix in KEYS:
        for text in (text_of(data), sealed(prefix, data)):
            with suppress(ConfigurationError):
                parse(text)
                read.append(prefix)
    return ",".join(read)


def read_signers(data: bytes) -> None:
    Signers.parse_toml(text_of(data))


def read_file(path: str) -> str:
    if "\x00" in path:
        raise ValueError("embedded null byte")
    raise FileNotFoundError(2, "No such file or directory")


def read_settings(data: bytes) -> str:
    """Parse an environment, and return the names and problems that the error lists: they distinguish inputs."""
    pairs = (text_of(line).partition("=") for line in data.split(FIELD))
    try:
        Settings.parse({name: value for name, _, value in pairs}, read_file=read_file)
    except ConfigurationError as error:
        return ",".join(line.partition(":")[2][:24] for line in error.message.splitlines())
    return ""


# --- the journal ------------------------------------------------------------------------------------------------


async def _new_journal() -> Scribe:
    scribe = Scribe()
    await scribe.write(None, Genesis(b"j" * 16, NAME, b"sealed"))
    await scribe.write(api.CreateOrganization("acme", 60), Created(KID, b"sealed", 60))
    return scribe


SCRIBE = asyncio.run(_new_journal())
FOLDED = [FIELD.join(pair) for pair in zip(CALLS[api.WRITE], MADE * 2, strict=False)] + [
    FIELD.join((CALLS[api.WRITE][0], MADE[1])), FIELD.join((CALLS[api.WRITE][2], MADE[2])), FIELD + MADE[3]
]  # fmt: skip


def read_entry(data: bytes) -> None:
    entry = decode_entry(data)
    assert decode_entry(encode_entry(entry)) == entry


def read_made(data: bytes) -> None:
    made = decode_made(data)
    assert decode_made(encode_made(made)) == made


def fold_entry(data: bytes) -> None:
    body, _, made = data.partition(FIELD)
    entry = msgspec.structs.replace(SCRIBE.make(api.RotateKey("acme")), body=body, made=made)
    changes(SCRIBE.state, entry)


def unseal(data: bytes) -> None:
    OLD_RING.unseal_root_key(data, organization="acme", kid=KID, generation=1)
    raise AssertionError("a record without a valid seal was unsealed")


RECORD = OLD_RING.first_id + bytes(12 + 32 + 16)

TARGETS = [
    *(
        Target(f"request{path.replace('/', '-')}", partial(read_request, path), (InvalidRequest,), seeds, MSGPACK_WORDS)
        for path, seeds in CALLS.items()
    ),
    Target("answer", read_answer, (ChannelError,), ANSWERS, MSGPACK_WORDS),
    *(
        Target(f"open{path.replace('/', '-')}", partial(open_message, path), (ChannelError,), [SEALED[path].message])
        for path in CALLS
    ),
    *(
        Target(
            f"payload{path.replace('/', '-')}",
            partial(open_payload, path),
            (ChannelError, InvalidRequest),
            [pad(envelope) for envelope in ENVELOPES],
            MSGPACK_WORDS,
        )
        for path in (api.VERIFY, api.SIGN)
    ),
    Target("open-answer", open_answer, (ChannelError,), [SEALED[api.VERIFY].message[:304], bytes(304)]),
    Target("envelope", read_envelope, (ChannelError,), ENVELOPES, MSGPACK_WORDS),
    Target("padding", read_padding, (ChannelError,), [pad(b"body"), pad(b"x" * 252), pad(b"")], (b"\x00" * 256,)),
    Target("keys", read_keys, (ConfigurationError,), [*map(str.encode, KEY_TEXTS), bytes(32), bytes(64)], TEXT_WORDS),
    Target("signers", read_signers, (ConfigurationError,), [SIGNERS.encode()], TOML_WORDS),
    Target("settings", read_settings, (ConfigurationError,), [ENVIRONMENT], (FIELD, b"TKDB_", b"_FILE=", *TOML_WORDS)),
    Target("entry", read_entry, (BrokenJournal,), [encode_entry(entry) for entry in SCRIBE.entries], MSGPACK_WORDS),
    Target("made", read_made, (BrokenJournal,), MADE, MSGPACK_WORDS),
    Target("fold", fold_entry, (BrokenJournal,), FOLDED, (FIELD, *MSGPACK_WORDS)),
    Target("sealed", unseal, (StoreError,), [RECORD, bytes(68)]),
]
