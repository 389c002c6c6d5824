"""The fuzzer finds a planted bug, saves its input, and finds no other bug in a short run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests import profiles
from tests.fuzz import engine
from tests.fuzz.__main__ import main
from tests.fuzz.engine import attempt, fuzz
from tests.fuzz.mutate import MAX_BYTES, Mutator
from tests.fuzz.target import CORPUS, Target
from tests.fuzz.targets import DEFAULT, TARGETS
from tkdb import api
from tkdb.errors import MalformedToken


@pytest.mark.parametrize("name", DEFAULT)
def test_every_input_of_the_corpus_is_accepted_or_refused(name: str) -> None:
    for data in TARGETS[name].corpus():
        assert attempt(TARGETS[name], data, set()) is None


def test_every_file_of_the_corpus_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(DEFAULT)
    assert all(path.stat().st_size <= MAX_BYTES for path in CORPUS.glob("*/*"))


def test_every_target_has_a_name_of_its_own() -> None:
    assert len(TARGETS) == len(DEFAULT) + 1  # and the planted one


def test_every_path_is_fuzzed() -> None:
    for path in api.CALLS_BY_PATH:
        for prefix in ("request", "open"):
            assert prefix + path.replace("/", "-") in DEFAULT


@pytest.mark.slow
def test_a_short_run_finds_no_unexpected_exception(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = profiles.fresh_seed()
    code = main([str(profiles.CURRENT.fuzz_s), "--seed", str(seed), "--findings", str(tmp_path)])
    output = capsys.readouterr().out
    assert code == 0, f"seed {seed}: {output}"
    assert output.count(" inputs ") == len(DEFAULT) + 1
    assert "no unexpected exception" in output.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_planted_bug_is_found_saved_and_reproduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["30", "--target", "planted", "--findings", str(tmp_path)]) == 1
    (found,) = tmp_path.iterdir()
    assert found.read_bytes().startswith(b"tkdb_!")
    output = capsys.readouterr().out
    assert "planted: KeyError: 'planted'" in output
    assert f"--again {found}" in output
    with pytest.raises(KeyError, match="planted"):
        main(["--again", str(found)])


def test_a_saved_input_that_no_longer_fails_is_reported_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planted-000000000000").write_bytes(b"tkdb_a")
    assert main(["--again", str(tmp_path / "planted-000000000000")]) == 0
    assert "planted: no unexpected exception" in capsys.readouterr().out


def hang(data: bytes) -> None:
    if data:
        time.sleep(60)


def allocate(data: bytes) -> None:
    if data:
        bytearray(1 << 45)


def misread(data: bytes) -> None:
    assert data == b"", "the result differs from the input"


@pytest.mark.parametrize(
    ("read", "error"), [(hang, "TookTooLong"), (allocate, "MemoryError"), (misread, "AssertionError")]
)
def test_a_hang_a_huge_allocation_and_a_wrong_result_are_findings(
    monkeypatch: pytest.MonkeyPatch, read: object, error: str
) -> None:
    monkeypatch.setattr(engine, "MAX_BATCH_S", 1)
    outcome = fuzz(Target("bad", read, (MalformedToken,), [b""]), 20, seed=0)  # type: ignore[arg-type]
    assert outcome.finding is not None
    assert outcome.finding.error.startswith(error)


def test_inputs_that_reach_a_new_place_are_mutated_further() -> None:
    """The bug is behind four bytes, and each wrong byte has its own refusal. Unguided mutations wouldn't reach it."""

    def lock(data: bytes) -> None:
        if data[:1] != b"\x13":
            raise MalformedToken("first")
        if data[1:2] != b"\x37":
            raise MalformedToken("second")
        if data[2:3] != b"\xab":
            raise MalformedToken("third")
        if data[3:4] == b"\xcd":
            raise KeyError("open")

    outcome = fuzz(Target("lock", lock, (MalformedToken,), [b"tkdb!"]), 60, seed=0)
    assert outcome.finding is not None
    assert outcome.finding.data.startswith(b"\x13\x37\xab\xcd")


def test_the_same_seed_gives_the_same_inputs() -> None:
    def inputs(seed: int) -> Iterator[bytes]:
        mutator = Mutator(Random(seed), [b"seed", b"another"], [b"word"])
        return (mutator.next() for _ in range(200))

    assert list(inputs(1)) == list(inputs(1))
    assert list(inputs(1)) != list(inputs(2))


def test_inputs_are_bounded() -> None:
    mutator = Mutator(Random(1), [b"x" * MAX_BYTES], [b"y" * MAX_BYTES])
    assert max(len(mutator.next()) for _ in range(2_000)) <= MAX_BYTES


@pytest.mark.slow
def test_libfuzzer_finds_a_planted_bug(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the dependency group fuzz is not installed")
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.guided",
        "planted",
        "-max_total_time=60",
        f"-artifact_prefix={tmp_path}/",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "KeyError: 'planted'" in done.stdout + done.stderr
    assert [path.read_bytes()[:6] for path in tmp_path.iterdir()] == [b"tkdb_!"]
