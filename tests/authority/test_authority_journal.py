"""The audit of an authority's journal: it detects a forged request, even from an attacker with every sealing secret."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.authority.world import BOTH_RING, NAME, SIGNERS, World, lineage, run
from tkdb import api, errors
from tkdb.channel.envelope import prologue, verify_signature
from tkdb.database.audit import AuditReport, audit
from tkdb.database.database import MEMORY, Database
from tkdb.journal.additions import decode_made
from tkdb.journal.entry import Entry, link
from tkdb.journal.state import State
from tkdb.macaroon.caveats import Act

KNOWN = {signer.key.thumbprint: signer.key for signer, _ in SIGNERS.values()}


def check_signature(entry: Entry) -> bool | None:
    """Return True if an entry's signature is valid, None if its signer isn't known."""
    signer = KNOWN.get(entry.signer)
    if signer is None:
        return None
    try:
        verify_signature(
            signer, prologue(api.WRITE, NAME), entry.signed_ms, entry.request_id, entry.body, entry.signature
        )
    except errors.ChannelError:
        return False
    return True


async def _audit(path: Path, verify: Callable[[Entry], bool | None] = check_signature) -> AuditReport:
    async with await Database.open(path, read_only=True) as database:
        return await audit(database, BOTH_RING, verify)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with every kind of write."""
    path = tmp_path / "tkdb.db"

    async def write(world: World) -> None:
        token = await world.mint()
        await world.revoke_own(token.narrow(Act("r")))
        await world.revoke(lineage(token), signer="acme")
        await world.revoke(api.Before("evil"), api.Before("evil", subject="eve"), signer="evil")
        await world.revoke(api.RetireKey(token.kid), signer="revoker")
        await world.ask(api.ConfigureOrganization("acme", 60), "administrator")
        await world.ask(api.RotateKey("evil"))
        world.advance(91 * 86_400_000)
        await world.authority._writer.purge()
        await world.restart(seal_keys=BOTH_RING)
        await world.ask(api.Reseal(limit=2), "resealer")
        await world.ask(api.Reseal(), "resealer")
        await world.ask(api.DeleteOrganization("evil"))

    run(write, path)
    return path


def test_every_write_of_a_signer_is_proved_by_its_signature(path: Path) -> None:
    report = asyncio.run(_audit(path))
    # Not signed: the first entry, the revocation by possession, the purge.
    assert (report.entries, report.signed, report.unknown) == (13, 10, [])


def test_the_audit_detects_an_invalid_signature(path: Path) -> None:
    with pytest.raises(errors.BrokenJournal, match="entry 2: its signature"):
        asyncio.run(_audit(path, verify=lambda entry: False))


async def _rewrite(path: Path, forge: Callable[[Entry], Entry]) -> None:
    """Rewrite the journal as an attacker with every sealing secret can: forge entries, and rebuild chain and tables."""
    async with await Database.open(path) as database:
        entries = await database.entries(0, 1_000)
        chain_keys = {row.from_seq: row for row in (await database.load()).chain_keys.values()}
        journal = (await database.load()).journal
    forged = path.with_name("forged.db")
    async with await Database.open(forged) as database:
        state = State()
        chain_key: Any = None
        for entry in map(forge, entries):
            if row := chain_keys.get(entry.seq):
                chain_key = BOTH_RING.unseal_chain_key(row.sealed, journal=journal, generation=row.generation)
            relinked = link(
                state.head,
                chain_key,
                now_ms=entry.time_ms,
                epoch=entry.epoch,
                made=decode_made(entry.made),
                body=entry.body,
                origin=entry,  # type: ignore[arg-type]  # it has the four fields of an Origin
            )
            await database.append(state, [relinked])
            state.apply(relinked)
    forged.replace(path)


def test_a_journal_rewritten_without_changes_passes_the_audit(path: Path) -> None:
    asyncio.run(_rewrite(path, lambda entry: entry))
    assert asyncio.run(_audit(path)).signed == 10


def _spare_the_token(entry: Entry) -> Entry:
    """Make an entry revoke a lineage that its signer didn't name."""
    call = msgspec.msgpack.decode(entry.body, type=api.WriteCall) if entry.body else None
    match call:
        case api.Revoke(targets=[api.Lineage(kid=kid)]):
            return msgspec.structs.replace(entry, body=api.encode(api.Revoke([api.Lineage(kid, bytes(16))])))
    return entry


FORGERIES: dict[str, Callable[[Entry], Entry]] = {
    "another body": _spare_the_token,
    "another signer": lambda entry: (
        msgspec.structs.replace(entry, signer=SIGNERS["evil"][0].key.thumbprint) if entry.seq == 2 else entry
    ),
    "another time": lambda entry: (
        msgspec.structs.replace(entry, signed_ms=entry.signed_ms + 1) if entry.seq == 2 else entry
    ),
    "another request id": lambda entry: (
        msgspec.structs.replace(entry, request_id=bytes(16)) if entry.seq == 2 else entry
    ),
    "another request's signature": lambda entry: (
        msgspec.structs.replace(entry, signature=bytes(64)) if entry.seq == 3 else entry
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_attacker_with_every_sealing_secret_cannot_forge_a_signers_request(path: Path, forgery: str) -> None:
    asyncio.run(_rewrite(path, FORGERIES[forgery]))
    # The chain and the tables are consistent: only the signature shows the forgery.
    asyncio.run(_audit(path, verify=lambda entry: None))
    with pytest.raises(errors.BrokenJournal, match="its signature isn't the signer's"):
        asyncio.run(_audit(path))


def test_an_attacker_without_the_chain_key_cannot_even_rebuild_the_chain(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE journal SET body = (SELECT body FROM journal WHERE seq = 3) WHERE seq = 2")
    connection.commit()
    connection.close()
    with pytest.raises(errors.BrokenJournal, match="entry 2: its hash"):
        asyncio.run(_audit(path, verify=lambda entry: None))


def test_an_authority_refuses_to_open_a_journal_with_an_altered_last_entry(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE journal SET epoch = epoch + 1 WHERE seq = (SELECT max(seq) FROM journal)")
    connection.commit()
    connection.close()

    async def reopen() -> None:
        with pytest.raises(errors.BrokenJournal, match="hash"):
            await World(path).open(seal_keys=BOTH_RING)

    asyncio.run(reopen())


def test_the_database_contains_no_token_and_no_signer_secret(path: Path) -> None:
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"tkdb_" not in stored
    for _, secret in SIGNERS.values():
        assert secret.text().encode() not in stored


def test_an_authority_in_memory_starts_empty_after_a_restart() -> None:
    async def test(world: World) -> None:
        assert world.path == MEMORY
        await world.restart()
        assert world.position == 1

    run(test)
