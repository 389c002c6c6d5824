"""The audit: it detects altered entries and tables, and forged requests of signers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.journal.scribe import (
    BOTH_RING,
    DAY_MS,
    NEW_RING,
    NO_ORIGIN,
    OLD_RING,
    START_MS,
    Scribe,
    begin_journal,
    nonce_at,
)
from tkdb import api, errors
from tkdb.database.audit import AuditReport, UnknownSigner, audit
from tkdb.database.database import Database
from tkdb.journal import entry as entry_module
from tkdb.journal.entry import START, Entry, Origin, link
from tkdb.journal.seal import ChainKey, SealKeys

ANN = Origin(signer=b"a" * 16, request_id=b"1" * 16, signed_ms=START_MS, signature=b"s" * 64)
BOB = Origin(signer=b"b" * 16, request_id=b"1" * 16, signed_ms=START_MS, signature=b"s" * 64)


async def write_journal(path: Path) -> Scribe:
    async with await Database.open(path) as database:
        s = Scribe(database)
        await s.begin()
        kid = await s.create("acme", origin=ANN)
        await s.create("evil", origin=BOB)
        await s.revoke(*(api.Lineage(kid=kid, nonce=nonce_at(START_MS + i)) for i in range(3)))
        await s.revoke(api.RetireKey(kid=kid), api.Before(organization="evil", subject="eve"))
        await s.rotate("evil")
        s.now_ms += DAY_MS
        await s.purge()
        await s.revoke(api.Branch(kid=kid, nonce=nonce_at(s.now_ms), branch=b"b" * 16))
        return s


async def run_audit(
    path: Path, ring: SealKeys = OLD_RING, verify: Callable[[Entry], bool | None] = lambda entry: None
) -> AuditReport:
    async with await Database.open(path, read_only=True) as database:
        return await audit(database, ring, verify)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    asyncio.run(write_journal(tmp_path / "tkdb.db"))
    return tmp_path / "tkdb.db"


def tamper(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def test_an_unaltered_database_passes_the_audit(path: Path) -> None:
    report = asyncio.run(run_audit(path, verify=lambda entry: True if entry.signer == ANN.signer else None))
    assert (report.entries, report.signed, report.unknown_entries, report.head.seq) == (8, 1, 5, 8)


def test_the_audit_lists_each_unknown_signer_with_its_entries(tmp_path: Path) -> None:
    async def write() -> None:
        async with await Database.open(tmp_path / "tkdb.db") as database:
            s = Scribe(database)
            await s.begin()
            for number, origin in enumerate([ANN, BOB, ANN, BOB, BOB]):
                request = msgspec.structs.replace(origin, request_id=bytes([number]) * 16)
                await s.create(f"o{number}", origin=request)

    asyncio.run(write())
    report = asyncio.run(run_audit(tmp_path / "tkdb.db"))
    assert report.unknown == [
        UnknownSigner(ANN.signer, entries=2, first=2, last=4),
        UnknownSigner(BOB.signer, entries=3, first=3, last=6),
    ]
    report = asyncio.run(run_audit(tmp_path / "tkdb.db", verify=lambda entry: entry.signer == BOB.signer or None))
    assert [each.signer for each in report.unknown] == [ANN.signer]


TAMPERINGS = {
    "an edited entry": "UPDATE journal SET time_ms = time_ms + 1 WHERE seq = 4",
    "an edited request": "UPDATE journal SET body = (SELECT body FROM journal WHERE seq = 5) WHERE seq = 4",
    "a replaced signer": "UPDATE journal SET signer = zeroblob(16) WHERE seq = 2",
    "a missing first entry": "DELETE FROM journal WHERE seq = 1",
    "a missing entry": "DELETE FROM journal WHERE seq = 4",
    "a missing entry and later entries moved up": "DELETE FROM journal WHERE seq = 4;"
    "UPDATE journal SET seq = -seq WHERE 0; UPDATE journal SET seq = seq - 1 WHERE seq > 4",
    "two swapped entries": "PRAGMA ignore_check_constraints = ON; UPDATE journal SET seq = -4 WHERE seq = 4;"
    "UPDATE journal SET seq = 4 WHERE seq = 5; UPDATE journal SET seq = 5 WHERE seq = -4",
    "several missing entries": "DELETE FROM journal WHERE seq BETWEEN 3 AND 5",
    "a missing last entry with unchanged tables": "DELETE FROM journal WHERE seq = 8",
    "no entries": "DELETE FROM journal",
    "a revived key": "UPDATE root_keys SET state = 'verifying', until_ms = 9, sealed = zeroblob(68)"
    " WHERE state = 'retired'",
    "an altered sealed key": "UPDATE root_keys SET sealed = zeroblob(68) WHERE state = 'signing'",
    "a key with a later end": "UPDATE root_keys SET until_ms = until_ms + 1 WHERE state = 'verifying';"
    "UPDATE organizations SET longest_lifetime_s = longest_lifetime_s + 1",
    "missing revocations": "DELETE FROM revocations",
    "an added revocation": "INSERT INTO revocations SELECT zeroblob(16), kid, branch, seq FROM revocations LIMIT 1",
    "a revocation with another entry": "UPDATE revocations SET seq = 1",
    "a missing organization": "PRAGMA foreign_keys = OFF; DELETE FROM organizations WHERE name = 'acme'",
    "an altered issued-before time": "UPDATE organizations SET issued_from_ms = 7",
    "an added subject": "INSERT INTO subjects VALUES ('acme', zeroblob(16), 1)",
    "another name of the authority": "UPDATE authority SET name = 'tkdb.elsewhere'",
    "another journal id": "UPDATE authority SET journal = zeroblob(16)",
    "no authority": "DELETE FROM authority",
    "an altered chain key": "UPDATE chain_keys SET sealed = CAST(substr(sealed, 1, 8) || zeroblob(60) AS BLOB)",
    "a missing chain key": "DELETE FROM chain_keys",
    "a chain key with a later first entry": "UPDATE chain_keys SET from_seq = 2",
    "a trigger that undoes revocations": "CREATE TRIGGER undo AFTER INSERT ON revocations BEGIN"
    " DELETE FROM revocations WHERE nonce = new.nonce; END",
    "a missing constraint": "DROP INDEX root_keys_signing",
    "a missing table": "DROP TABLE subjects",
    "a column of another type": "DROP TABLE subjects;"
    "CREATE TABLE subjects (organization TEXT, subject BLOB, issued_from_ms TEXT);"
    "INSERT INTO subjects VALUES (1, 2, 3)",
    "a loosely typed table": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '');"
    "PRAGMA writable_schema = OFF",
}


@pytest.mark.parametrize("case", TAMPERINGS)
def test_the_audit_detects(path: Path, case: str) -> None:
    tamper(path, TAMPERINGS[case])
    with pytest.raises(errors.StoreError) as caught:
        asyncio.run(run_audit(path))
    assert caught.value.message


def test_the_audit_names_the_entry_or_the_row(path: Path) -> None:
    tamper(path, "UPDATE journal SET time_ms = time_ms + 1 WHERE seq = 4")
    with pytest.raises(errors.BrokenJournal, match="entry 4"):
        asyncio.run(run_audit(path))
    tamper(path, "UPDATE journal SET time_ms = time_ms - 1 WHERE seq = 4")
    tamper(path, "UPDATE organizations SET max_lifetime_s = 1 WHERE name = 'evil'")
    with pytest.raises(errors.BrokenJournal, match=r"organizations .* max_lifetime_s .* evil"):
        asyncio.run(run_audit(path))


def put_entries(path: Path, entries: list[Entry]) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM journal")
    connection.executemany(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [msgspec.structs.astuple(e) for e in entries]
    )
    connection.commit()
    connection.close()


def relink(entries: list[Entry], key_of: Callable[[int], ChainKey]) -> list[Entry]:
    """Return entries with the same operations and additions, and with rebuilt hashes."""
    head, out = START, []
    for entry in entries:
        origin = Origin(entry.signer, entry.request_id, entry.signed_ms, entry.signature)
        new = link(head, key_of(entry.seq), now_ms=entry.time_ms, epoch=entry.epoch, body=entry.body, origin=origin)
        new = msgspec.structs.replace(new, made=entry.made)
        new = msgspec.structs.replace(new, hash=_rehash(key_of(entry.seq), new))
        out.append(new)
        head = new.head
    return out


def _rehash(key: ChainKey, entry: Entry) -> bytes:
    return entry_module._hash(key, entry)


def test_a_chain_rebuilt_without_the_key_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "tkdb.db"
    s = asyncio.run(write_journal(path))
    put_entries(path, relink(s.entries, lambda seq: s.chain_key))
    asyncio.run(run_audit(path))  # the control: with the key, the rebuilt chain is the same
    put_entries(path, relink(s.entries, lambda seq: ChainKey(b"x" * 32)))
    with pytest.raises(errors.BrokenJournal, match="entry 1"):
        asyncio.run(run_audit(path))


def test_a_write_without_its_signature_is_detected_although_the_chain_is_valid(tmp_path: Path) -> None:
    """An attacker with the sealing secret has the chain key, but can't forge a signer's request."""
    path = tmp_path / "tkdb.db"
    s = asyncio.run(write_journal(path))
    stripped = msgspec.structs.replace(s.entries[2], signer=b"", request_id=b"", signed_ms=0, signature=b"")
    put_entries(path, relink([*s.entries[:2], stripped, *s.entries[3:]], lambda seq: s.chain_key))
    with pytest.raises(errors.BrokenJournal, match="entry 3: it needs a signer's signature"):
        asyncio.run(run_audit(path))


def test_a_revocation_by_possession_may_name_only_one_branch(tmp_path: Path) -> None:
    async def run(path: Path, *targets: api.Target) -> None:
        async with await Database.open(path) as database:
            s = await begin_journal(database)
            await s.write(api.Revoke(targets=list(targets)), origin=NO_ORIGIN)
        await run_audit(path)

    kid, branch = b"k" * 16, api.Branch(kid=b"k" * 16, nonce=nonce_at(START_MS), branch=b"b" * 16)
    asyncio.run(run(tmp_path / "one.db", branch))
    lineage, everything = api.Lineage(kid, nonce_at(START_MS)), api.Before("acme")
    for number, targets in enumerate([(branch, branch), (lineage,), (everything,)]):
        with pytest.raises(errors.BrokenJournal, match="signature"):
            asyncio.run(run(tmp_path / f"{number}.db", *targets))


def test_after_a_reseal_the_audit_needs_only_the_new_secret(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            s = Scribe(database, seed=1)
            s.state = await database.load()
            s.journal = s.state.journal
            row = s.state.chain_keys[1]
            s.chain_key = OLD_RING.unseal_chain_key(row.sealed, journal=s.journal, generation=1)
            await s.reseal(BOTH_RING, limit=2)
            with pytest.raises(errors.WrongSealKey):
                await audit(database, NEW_RING, lambda entry: None)
            await s.reseal(BOTH_RING)
            assert list(s.state.sealed_otherwise(BOTH_RING.first_id)) == []
            await s.create("later")
        report = await run_audit(path, NEW_RING)
        assert report.entries == 11

    asyncio.run(run())


def test_a_leaked_old_secret_cannot_rewrite_entries_from_before_the_reseal(tmp_path: Path) -> None:
    path = tmp_path / "tkdb.db"
    s = asyncio.run(write_journal(path))
    leaked = s.chain_key

    async def reseal() -> None:
        async with await Database.open(path) as database:
            s.database = database
            await s.reseal(BOTH_RING)
            await s.create("later")

    asyncio.run(reseal())
    changed = [msgspec.structs.replace(e, signed_ms=e.signed_ms + (e.seq == 8)) for e in s.entries]
    resealed_seq = s.state.chain_keys[2].from_seq
    # With only the leaked key, the attacker keeps the entries under the new key, or hashes them with the leaked one.
    put_entries(path, relink(changed[: resealed_seq - 1], lambda seq: leaked) + s.entries[resealed_seq - 1 :])
    with pytest.raises(errors.BrokenJournal, match=f"entry {resealed_seq}: it doesn't follow"):
        asyncio.run(run_audit(path, BOTH_RING))
    put_entries(path, relink(changed, lambda seq: leaked))
    with pytest.raises(errors.BrokenJournal, match=f"entry {resealed_seq}: its hash"):
        asyncio.run(run_audit(path, BOTH_RING))
    # The control: with both keys, the attacker passes the audit.
    put_entries(path, relink(changed, lambda seq: leaked if seq < resealed_seq else s.chain_key))
    asyncio.run(run_audit(path, BOTH_RING))


def test_an_invalid_signature_is_detected(path: Path) -> None:
    with pytest.raises(errors.BrokenJournal, match="entry 2: its signature"):
        asyncio.run(run_audit(path, verify=lambda entry: entry.signer != ANN.signer))


def test_the_audit_fails_without_the_sealing_secret(path: Path) -> None:
    with pytest.raises(errors.WrongSealKey):
        asyncio.run(run_audit(path, NEW_RING))


def test_an_empty_database_passes_the_audit(tmp_path: Path) -> None:
    async def run() -> None:
        async with await Database.open(tmp_path / "tkdb.db") as database:
            assert (await audit(database, OLD_RING, lambda entry: None)).head == START

    asyncio.run(run())


def test_a_database_passes_the_audit_while_it_is_written(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            s = Scribe(database, seed=2)
            s.state = await database.load()
            s.journal = s.state.journal
            s.chain_key = OLD_RING.unseal_chain_key(s.state.chain_keys[1].sealed, journal=s.journal, generation=1)
            done = asyncio.Event()

            async def keep_writing() -> None:
                while not done.is_set():
                    await s.create(f"o{s.state.head.seq}")

            writer = asyncio.create_task(keep_writing())
            reports = [await run_audit(path)]
            while reports[-1].entries < reports[0].entries + 20:
                reports.append(await run_audit(path))
            done.set()
            await writer

    asyncio.run(run())


def test_the_audit_accepts_litestreams_tables(path: Path) -> None:
    tamper(path, "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
    asyncio.run(run_audit(path))
