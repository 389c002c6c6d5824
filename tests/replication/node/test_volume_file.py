"""The volume file survives a write that is cut short, and ignores damage and other journals."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import profiles
from tkdb.errors import StoreUnwritable
from tkdb_replication.node.volume_file import SLOT_BYTES, VolumeFile
from tkdb_replication.protocol.head import BEGINNING, Checkpoint
from tkdb_replication.protocol.reader import Volume

JOURNAL = b"j" * 16


def volume(rev: int) -> Volume:
    return Volume(journal=JOURNAL, rev=rev, place=Checkpoint(rev, bytes([rev % 256]) * 32), owner=b"o" * 16)


def database(folder: Path) -> Path:
    return folder / "tkdb.db"


def machine_file(folder: Path) -> Path:
    return folder / "tkdb.db.machine"


def test_the_last_written_volume_is_read_by_the_next_process(tmp_path: Path) -> None:
    for rev in range(5):
        VolumeFile(database(tmp_path)).write(volume(rev))
        assert VolumeFile(database(tmp_path)).read(journal=JOURNAL) == volume(rev)


def test_a_new_machine_has_an_empty_volume(tmp_path: Path) -> None:
    assert VolumeFile(database(tmp_path)).read(journal=None) == Volume()
    assert not machine_file(tmp_path).exists()


@pytest.mark.parametrize("journal", [None, b"k" * 16])
def test_the_volume_of_another_journal_is_ignored(tmp_path: Path, journal: bytes | None) -> None:
    VolumeFile(database(tmp_path)).write(volume(7))
    assert VolumeFile(database(tmp_path)).read(journal=journal) == Volume(journal=journal)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_write_that_is_cut_short_anywhere_keeps_the_previous_volume(tmp_path: Path, before: int) -> None:
    file = VolumeFile(database(tmp_path))
    for rev in range(before):
        file.write(volume(rev))
    old = machine_file(tmp_path).read_bytes() if before else bytes(2 * SLOT_BYTES)
    file.write(volume(9))
    new = machine_file(tmp_path).read_bytes()
    changed = [at for at in range(len(new)) if old[at] != new[at]]
    for cut in range(changed[0], changed[-1] + 1):
        machine_file(tmp_path).write_bytes(new[:cut] + old[cut:])
        found = VolumeFile(database(tmp_path)).read(journal=JOURNAL)
        assert found == (volume(before - 1) if before else Volume(journal=JOURNAL))


def test_with_a_single_slot_a_write_that_is_cut_short_would_lose_both_volumes(tmp_path: Path) -> None:
    file = VolumeFile(database(tmp_path))
    file.write(volume(1))
    first = machine_file(tmp_path).read_bytes()[SLOT_BYTES:]
    file.write(volume(2))
    file.write(volume(3))
    third = machine_file(tmp_path).read_bytes()[SLOT_BYTES:]
    machine_file(tmp_path).write_bytes(bytes(SLOT_BYTES) + third[:40] + first[40:])
    assert VolumeFile(database(tmp_path)).read(journal=JOURNAL).rev == -1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=profiles.CURRENT.few_examples)
@given(raw=st.binary(max_size=2 * SLOT_BYTES))
def test_arbitrary_bytes_count_as_a_lost_disk_and_can_be_overwritten(tmp_path: Path, raw: bytes) -> None:
    machine_file(tmp_path).write_bytes(raw)
    file = VolumeFile(database(tmp_path))
    assert file.read(journal=JOURNAL).place == BEGINNING
    file.write(volume(4))
    assert VolumeFile(database(tmp_path)).read(journal=JOURNAL) == volume(4)


def test_a_volume_that_cannot_be_written_raises_store_unwritable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnwritable, match="can't be written"):
        VolumeFile(tmp_path / "nowhere" / "tkdb.db").write(volume(1))
