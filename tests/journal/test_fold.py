"""The fold: the changes that each kind of entry makes to the state, and the entries that it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tests.journal.scribe import DAY_MS, HOUR_S, NAME, START_MS, Scribe, nonce_at, snapshot
from tkdb import api, errors
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
)
from tkdb.journal.entry import check_link
from tkdb.journal.fold import CLOCK_SKEW_MS, Draft, changes, outlived_ms
from tkdb.journal.state import State
from tkdb.macaroon.verify import subject_digest

BRANCH = b"b" * 16
KID = b"k" * 16


def scribe() -> Scribe:
    """Return a scribe whose journal contains a genesis and the organization acme."""
    new = Scribe()
    asyncio.run(new.begin())
    asyncio.run(new.create("acme"))
    return new


def run(awaitable: Any) -> Any:
    return asyncio.run(awaitable)


def test_a_revoked_lineage_is_found_and_no_other() -> None:
    s = scribe()
    nonce = nonce_at(START_MS)
    run(s.revoke(api.Lineage(kid=KID, nonce=nonce)))
    assert s.state.revocation(KID + nonce) is True
    assert s.state.revocation(b"K" * 16 + nonce) is None
    assert s.state.revocation(KID + nonce_at(START_MS + 1)) is None


def test_a_revoked_lineage_covers_its_branches_in_either_order() -> None:
    s = scribe()
    first, second = nonce_at(START_MS), nonce_at(START_MS + 1)
    run(s.revoke(api.Branch(kid=KID, nonce=first, branch=BRANCH), api.Lineage(kid=KID, nonce=second)))
    assert s.state.revocation(KID + first) == {BRANCH}
    run(s.revoke(api.Lineage(kid=KID, nonce=first), api.Branch(kid=KID, nonce=second, branch=BRANCH)))
    assert s.state.revocation(KID + first) is True
    assert s.state.revocation(KID + second) is True


def test_a_rotated_key_verifies_until_its_last_token_can_have_expired() -> None:
    s = scribe()
    old = s.state.signing_key("acme")
    run(s.configure("acme", 2 * HOUR_S))
    run(s.configure("acme", 60))
    new = run(s.rotate())
    until_ms = START_MS + outlived_ms(2 * HOUR_S)
    assert [(key.kid, key.generation, key.state) for key in s.state.keys_of("acme")] == [
        (new, 2, "signing"),
        (old.kid, 1, "verifying"),
    ]
    assert s.state.keys[old.kid].until_ms == until_ms
    s.now_ms = until_ms - 1
    run(s.purge())
    assert s.state.keys[old.kid].sealed
    s.now_ms = until_ms
    run(s.purge())
    assert (s.state.keys[old.kid].state, s.state.keys[old.kid].sealed) == ("retired", b"")


def test_retiring_the_signing_key_adds_a_new_one_and_erases_the_old() -> None:
    s = scribe()
    old = s.state.signing_key("acme")
    run(s.revoke(api.RetireKey(kid=old.kid)))
    assert s.state.keys[old.kid].sealed == b""
    assert s.state.signing_key("acme").generation == 2


def test_a_deleted_organization_keeps_its_name_and_none_of_its_keys() -> None:
    s = scribe()
    run(s.rotate())
    run(s.delete())
    assert {key.sealed for key in s.state.keys_of("acme")} == {b""}
    assert s.state.signing_key("acme") is None
    with pytest.raises(errors.BrokenJournal):
        run(s.create("acme"))


def test_an_issued_before_time_includes_the_skew_and_never_decreases() -> None:
    s = scribe()
    run(s.revoke(api.Before(organization="acme")))
    assert s.state.organization("acme").issued_from_ms == START_MS + CLOCK_SKEW_MS
    run(s.revoke(api.Before(organization="acme", before_ms=5)))
    assert s.state.organization("acme").issued_from_ms == START_MS + CLOCK_SKEW_MS
    run(s.revoke(api.Before(organization="acme", before_ms=5, subject="ann")))
    assert s.state.issued_from("acme", subject_digest("ann")) == 5 + CLOCK_SKEW_MS
    assert s.state.issued_from("acme", subject_digest("bob")) == 0


def test_all_targets_of_an_entry_count_if_they_change_the_same_row() -> None:
    s = scribe()
    later, sooner = START_MS - 1, START_MS - 1_000
    run(
        s.revoke(
            *(
                api.Before(organization="acme", before_ms=ms, subject=subject)
                for ms in (later, sooner)
                for subject in (None, "ann")
            )
        )
    )
    assert s.state.organization("acme").issued_from_ms == later + CLOCK_SKEW_MS
    assert s.state.issued_from("acme", subject_digest("ann")) == later + CLOCK_SKEW_MS


def test_a_purge_keeps_every_revocation_that_a_live_token_could_need() -> None:
    s = scribe()
    run(s.create("slow", max_lifetime_s=90 * 86_400))
    run(s.configure("slow", 60))
    nonces = [nonce_at(START_MS + hours * HOUR_S * 1000) for hours in range(0, 24 * 100, 5)]
    run(s.revoke(*(api.Lineage(kid=KID, nonce=nonce) for nonce in nonces)))
    run(s.revoke(api.Before(organization="acme", subject="ann")))
    s.now_ms = START_MS + 95 * DAY_MS
    run(s.purge())
    expired_ms = s.now_ms - outlived_ms(90 * DAY_MS // 1000)
    kept = [nonce for nonce in nonces if s.state.revocation(KID + nonce) is not None]
    assert set(kept) >= {nonce for nonce in nonces if int.from_bytes(nonce[:6], "big") >= expired_ms}
    assert len(kept) < len(nonces)
    assert s.state.issued_from("acme", subject_digest("ann")) == 0


def test_a_purge_keeps_a_subjects_time_until_its_last_millisecond() -> None:
    s = scribe()
    run(s.revoke(api.Before(organization="acme", subject="ann")))
    s.now_ms = START_MS + CLOCK_SKEW_MS + outlived_ms(HOUR_S) - 1
    run(s.purge())
    assert s.state.issued_from("acme", subject_digest("ann"))
    s.now_ms += 1
    run(s.purge())
    assert not s.state.issued_from("acme", subject_digest("ann"))


def test_the_longest_possible_lifetime_overflows_nothing() -> None:
    s = scribe()
    run(s.configure("acme", 2**53 - 1))
    run(s.revoke(api.Before(organization="acme", before_ms=2**53 - 1)))
    run(s.rotate())
    run(s.purge())
    assert s.state.verifying()[0].until_ms == 2**53 - 1
    assert s.state.organization("acme").issued_from_ms == 2**53 - 1


def test_a_restore_brings_back_the_signing_key_and_retires_later_ones() -> None:
    s = scribe()
    run(s.configure("acme", 60))
    old = s.state.signing_key("acme")
    position = s.state.head.seq
    rotated = [run(s.rotate()), run(s.rotate())]
    run(s.configure("acme", DAY_MS))
    late = run(s.create("late"))
    assert run(s.restore(position)) == Restored(position, [("acme", 60)], ["late"], [old.kid], [*rotated[::-1], late])
    assert s.state.signing_key("acme") == old
    assert {s.state.keys[kid].state for kid in (*rotated, late)} == {"retired"}
    row = s.state.organization("acme")
    assert (row.max_lifetime_s, row.longest_lifetime_s) == (60, DAY_MS)
    assert s.state.organization("late").deleted
    assert run(s.restore(position)) is None


def test_a_restore_revives_no_key_organization_or_token() -> None:
    s = scribe()
    run(s.create("gone"))
    old = s.state.signing_key("acme")
    nonce, position = nonce_at(START_MS), s.state.head.seq
    run(s.revoke(api.Lineage(kid=old.kid, nonce=nonce), api.RetireKey(kid=old.kid), api.Before(organization="acme")))
    run(s.revoke(api.Before(organization="acme", subject="ann")))
    run(s.delete("gone"))
    before = snapshot(s.state)
    assert run(s.restore(position)) is None
    assert snapshot(s.state) == before


def test_a_restore_to_a_retired_signing_key_keeps_only_the_current_one() -> None:
    s = scribe()
    position = s.state.head.seq
    run(s.revoke(api.RetireKey(kid=s.state.signing_key("acme").kid)))
    replacement = s.state.signing_key("acme").kid
    newest = run(s.rotate())
    assert run(s.restore(position)) == Restored(position, [], [], [], [replacement])
    assert s.state.signing_key("acme").kid == newest


def test_a_restore_revives_nothing_that_an_earlier_restore_ended() -> None:
    s = scribe()
    first = s.state.signing_key("acme").kid
    position = s.state.head.seq
    run(s.rotate())
    run(s.create("late"))
    between = s.state.head.seq
    run(s.restore(position))
    assert run(s.restore(between)) is None
    assert s.state.signing_key("acme").kid == first
    assert s.state.organization("late").deleted


def test_a_recovered_journal_has_a_new_id_a_new_chain_key_and_the_same_name() -> None:
    s = scribe()
    before = s.state.chain_key(1)
    entry = run(s.recover())
    assert (s.state.journal, s.state.name) == (s.journal, NAME)
    assert s.journal != JOURNAL
    assert [row.from_seq for row in s.state.chain_keys.values()] == [before.from_seq, entry.seq]
    check_link(s.entries[-2].head, s.chain_key, entry)


def test_a_draft_finds_the_last_chain_key_while_older_ones_are_resealed() -> None:
    s = scribe()
    run(s.recover())
    draft = Draft(s.state)
    draft.put(s.state.chain_key(1))
    assert draft.last_generation() == 2


def test_a_draft_contains_changes_that_the_state_does_not_contain_yet() -> None:
    s = scribe()
    run(s.revoke(api.Before(organization="acme", subject="ann")))
    before = snapshot(s.state)
    later = START_MS + DAY_MS
    s.now_ms = later
    draft = Draft(s.state)
    for change in changes(draft, s.make(None, Purged())):
        draft.put(change)
    assert draft.issued_from("acme", subject_digest("ann")) == 0
    assert snapshot(s.state) == before


def test_an_entry_that_fails_to_apply_changes_nothing() -> None:
    s = scribe()
    before = snapshot(s.state)
    call = api.Revoke(targets=[api.Lineage(kid=KID, nonce=nonce_at(0)), api.RetireKey(kid=KID)])
    with pytest.raises(errors.BrokenJournal):
        s.state.apply(s.make(call))
    assert snapshot(s.state) == before


SEALED = b"s" * 68
JOURNAL = scribe().journal
SIGNING = scribe().state.signing_key("acme").kid
INVALID_ENTRIES = {
    "a second genesis": (None, Genesis(KID, "x", SEALED)),
    "no request and no addition": (None, None),
    "an addition without its request": (None, Rotated(KID, SEALED)),
    "a request without its addition": (api.RotateKey(name="acme"), None),
    "a request with the addition of another request": (api.RotateKey(name="acme"), Created(KID, SEALED, 1)),
    "a request with an unneeded addition": (api.DeleteOrganization(name="acme"), Purged()),
    "the creation of an existing organization": (api.CreateOrganization(name="acme"), Created(KID, SEALED, 1)),
    "a key rotation of a missing organization": (api.RotateKey(name="evil"), Rotated(KID, SEALED)),
    "the deletion of a missing organization": (api.DeleteOrganization(name="evil"), None),
    "the configuration of a missing organization": (api.ConfigureOrganization(name="evil", max_lifetime_s=1), None),
    "an issued-before time of a missing organization": (api.Revoke(targets=[api.Before(organization="evil")]), None),
    "the retirement of an unknown key": (api.Revoke(targets=[api.RetireKey(kid=KID)]), None),
    "a replacement without a retired key": (
        api.Revoke(targets=[api.Lineage(kid=KID, nonce=KID)]),
        Replaced([Replacement("acme", KID, SEALED)]),
    ),
    "an unknown key resealed": (api.Reseal(), Resealed([(KID, SEALED)], [], None)),
    "a restore without its addition": (api.Restore(seq=1), None),
    "a restore to entry 0": (api.Restore(seq=0), Restored(0, [], [], [], [])),
    "a restore to an entry that doesn't exist yet": (api.Restore(seq=3), Restored(3, [], [], [], [])),
    "a restore whose addition names another entry": (api.Restore(seq=1), Restored(2, [], [], [], [])),
    "a restore of a lifetime never configured": (
        api.Restore(seq=1),
        Restored(1, [("acme", 2**53 - 1)], [], [], []),
    ),
    "a restore that configures a missing organization": (api.Restore(seq=1), Restored(1, [("evil", 1)], [], [], [])),
    "a restore that deletes a missing organization": (api.Restore(seq=1), Restored(1, [], ["evil"], [], [])),
    "a restore that deletes an organization but not its keys": (api.Restore(seq=1), Restored(1, [], ["acme"], [], [])),
    "a restore that retires an unknown key": (api.Restore(seq=1), Restored(1, [], [], [], [KID])),
    "a restore that leaves no signing key": (api.Restore(seq=1), Restored(1, [], [], [], [SIGNING])),
    "a restore that retires a key twice": (api.Restore(seq=1), Restored(1, [], ["acme"], [], [SIGNING, SIGNING])),
    "a restore that makes an unknown key sign": (api.Restore(seq=1), Restored(1, [], [], [KID], [SIGNING])),
    "a restore that makes the signing key sign": (api.Restore(seq=1), Restored(1, [], [], [SIGNING], [])),
    "a restore that makes a key sign and retires it": (api.Restore(seq=1), Restored(1, [], [], [SIGNING], [SIGNING])),
    "a recovery into the same journal": (None, Recovered(JOURNAL, [(1, SEALED)], SEALED)),
    "a recovery that omits a chain key": (None, Recovered(KID, [], SEALED)),
    "a recovery with an unknown chain key": (None, Recovered(KID, [(1, SEALED), (2, SEALED)], SEALED)),
    "an unknown chain key resealed": (api.Reseal(), Resealed([], [(9, SEALED)], None)),
}


@pytest.mark.parametrize("case", INVALID_ENTRIES)
def test_an_entry_that_contradicts_the_state_is_refused(case: str) -> None:
    s = scribe()
    with pytest.raises(errors.BrokenJournal):
        s.state.apply(s.make(*INVALID_ENTRIES[case]))


def test_a_signing_key_is_never_retired_without_a_replacement_or_added_twice() -> None:
    s = scribe()
    kid = s.state.signing_key("acme").kid
    with pytest.raises(errors.BrokenJournal):
        s.state.apply(s.make(api.Revoke(targets=[api.RetireKey(kid=kid)])))
    with pytest.raises(errors.BrokenJournal):
        s.state.apply(s.make(api.RotateKey(name="acme"), Rotated(kid, SEALED)))


def test_a_journal_begins_with_a_genesis() -> None:
    s = Scribe()
    with pytest.raises(errors.BrokenJournal):
        State().apply(s.make(None, Purged()))


@pytest.mark.parametrize("change", [{"body": b"\xc1"}, {"made": b"\xc1"}, {"body": b"\x90"}, {"made": b"\x91\xa1x"}])
def test_an_unreadable_entry_is_refused(change: dict[str, bytes]) -> None:
    s = scribe()
    entry = s.make(api.DeleteOrganization(name="acme"))
    with pytest.raises(errors.BrokenJournal):
        s.state.apply(msgspec.structs.replace(entry, **change))
