"""The proof of a restored file: the chain keys prove its journal, and the journal proves its tables."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.database.test_audit import TAMPERINGS, tamper, write_journal
from tests.journal.scribe import BOTH_RING, NEW_RING, OLD_RING, START_MS, Scribe, nonce_at, snapshot
from tkdb import api, errors
from tkdb.database.database import Database
from tkdb.database.proof import Proven, prove
from tkdb.journal.additions import Purged
from tkdb.journal.entry import START, link
from tkdb.journal.seal import SealKeys

KID = b"k" * 16


async def run_proof(path: Path, ring: SealKeys = OLD_RING) -> Proven:
    async with await Database.open(path, immutable=True) as database:
        return await prove(database, ring)


def test_a_proof_returns_the_state_and_the_current_chain_key(path: Path) -> None:
    async def run() -> None:
        scribe = await write_journal(path)
        state, chain_key = await run_proof(path)
        assert snapshot(state) == snapshot(scribe.state)
        assert chain_key == scribe.chain_key
        async with await Database.open(path) as database:
            scribe.database = database
            await scribe.reseal(BOTH_RING)
        state, chain_key = await run_proof(path, NEW_RING)
        assert chain_key == scribe.chain_key
        # The next entry is hashed with this key.
        async with await Database.open(path) as database:
            await database.append(state, [link(state.head, chain_key, now_ms=scribe.now_ms, epoch=1, made=Purged())])
        assert (await run_proof(path, NEW_RING)).state.head.seq == state.head.seq + 1

    asyncio.run(run())


def test_an_empty_database_has_no_chain_key(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path):
            pass
        state, chain_key = await run_proof(path)
        assert (state.head, chain_key) == (START, None)

    asyncio.run(run())


@pytest.mark.parametrize("case", TAMPERINGS)
def test_a_backup_is_refused_with(path: Path, case: str) -> None:
    asyncio.run(write_journal(path))
    tamper(path, TAMPERINGS[case])
    with pytest.raises(errors.StoreError):
        asyncio.run(run_proof(path))


@pytest.mark.parametrize(
    "script",
    [
        "DELETE FROM revocations WHERE branch <> x''",
        "INSERT INTO revocations SELECT nonce, kid, zeroblob(16), seq FROM revocations WHERE branch = x'' LIMIT 1",
        "UPDATE revocations SET seq = 5",
        "UPDATE revocations SET kid = CAST(x'00' || substr(kid, 2) AS BLOB)",
    ],
)
def test_the_proof_compares_data_that_the_state_does_not_contain(path: Path, script: str) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = Scribe(database)
            await scribe.begin()
            await scribe.revoke(*(api.Lineage(KID, nonce_at(START_MS + i)) for i in range(3)))
            await scribe.revoke(api.Lineage(KID, nonce_at(START_MS)), api.Branch(KID, nonce_at(START_MS), KID))
        await run_proof(path)
        tamper(path, script)
        with pytest.raises(errors.BrokenJournal, match="table revocations"):
            await run_proof(path)

    asyncio.run(run())


def test_text_in_place_of_bytes_is_refused_even_if_the_schema_is_intact(path: Path) -> None:
    asyncio.run(write_journal(path))
    rewrite = "UPDATE sqlite_schema SET sql = replace(sql, '{}', '{}') WHERE name = 'revocations'"
    loose = f"PRAGMA writable_schema = ON; {rewrite}"
    tamper(path, loose.format("STRICT, WITHOUT ROWID", "WITHOUT ROWID -- STRICT,"))
    tamper(path, "UPDATE revocations SET branch = '0123456789abcdef'")
    tamper(path, loose.format("WITHOUT ROWID -- STRICT,", "STRICT, WITHOUT ROWID"))
    with pytest.raises(errors.BrokenJournal, match="RevocationRow"):
        asyncio.run(run_proof(path))


def test_reading_a_restored_file_creates_no_other_file(path: Path) -> None:
    asyncio.run(write_journal(path))
    path.with_name("tkdb.db.lock").unlink()
    content = path.read_bytes()
    asyncio.run(run_proof(path))
    assert [file.name for file in path.parent.iterdir()] == ["tkdb.db"]
    assert path.read_bytes() == content


def test_a_file_with_a_log_is_not_opened_as_immutable(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            await Scribe(database).begin()
            with pytest.raises(errors.StoreError, match="log"):
                await Database.open(path, immutable=True)
        await run_proof(path)

    asyncio.run(run())


def test_checkpoints_can_be_switched_on_and_off_while_the_database_is_open(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path, checkpoints=False) as database:
            scribe = Scribe(database)
            await scribe.begin()
            log = path.with_name("tkdb.db-wal")

            async def grow() -> int:
                for _ in range(60):
                    nonces = [nonce_at(START_MS, scribe.random.randbytes(10)) for _ in range(900)]
                    await scribe.revoke(*(api.Lineage(KID, nonce) for nonce in nonces))
                return log.stat().st_size

            assert await grow() > 8 << 20
            await database.let_checkpoint(True)
            assert log.stat().st_size == 0
            assert await grow() < 8 << 20
            await database.set_aside("old")
            assert await database._rows("PRAGMA wal_autocheckpoint", ()) == [(1_000,)]
            await database.let_checkpoint(False)
            await database.replace(path.with_name("tkdb.db.old"))
            scribe.state = await database.load()
            assert await grow() > 8 << 20

    asyncio.run(run())
