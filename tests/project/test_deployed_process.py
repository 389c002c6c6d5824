"""The image's process: it is process 1 in its namespace, of a user without privileges, and writes to its volume."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import BARE, TKDB, tkdb

USER = 10_001


@pytest.fixture(scope="module")
def process_1() -> tuple[str, ...]:
    """The command that runs another as process 1 and as the image's user. Skip the test if that isn't possible."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can be another user")
    for program in ("setpriv", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    command = (
        *("unshare", "--pid", "--fork", "--kill-child=SIGKILL"),
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
    )
    tried = subprocess.run([*command, sys.executable, "-c", "import tkdb"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"another user can't run it here: {tried.stderr.decode()[-200:]}")
    return command


@pytest.fixture
def volume() -> Iterator[Path]:
    """An empty volume that belongs to root, like a volume that was just mounted."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (path := Path(folder) / "data").mkdir()
        yield path


@pytest.fixture
def settings(volume: Path) -> dict[str, str]:
    keys = volume.parent / "keys"
    assert tkdb("keys", "generate", "--directory", str(keys)).code == 0
    return {
        "TKDB_NAME": "tkdb.example",
        "TKDB_AUTHORITY_KEY": (keys / "authority.key").read_text().strip(),
        "TKDB_SEAL_KEYS": (keys / "seal.key").read_text().strip(),
        "TKDB_SIGNERS": (keys / "signers.toml").read_text(),
        "TKDB_DB": str(volume / "tkdb.db"),
        "TKDB_BIND": "127.0.0.1:0",
        "TKDB_DRAIN_MS": "0",
        "HOME": "/",
    }


def test_the_images_user_serves_from_its_own_volume_and_ends_on_sigterm(
    process_1: tuple[str, ...], volume: Path, settings: dict[str, str]
) -> None:
    os.chown(volume, USER, USER)  # Fly's init does this for the image's user.
    process = subprocess.Popen(
        [*process_1, TKDB, "serve", "--json"],
        env=BARE | settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert '"address":' in process.stdout.readline()
        assert {path.stat().st_uid for path in volume.iterdir()} == {USER}
        [inside] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        status = dict(line.split(":\t") for line in Path(f"/proc/{inside}/status").read_text().splitlines())
        assert (status["Uid"].split(), status["CapEff"]) == ([str(USER)] * 4, "0" * 16)
        assert status["NSpid"].split()[1] == "1"
        os.kill(int(inside), signal.SIGTERM)  # The kernel drops it if process 1 has no handler.
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, log
    assert '"stopped"' in log


def test_a_volume_of_another_user_is_a_clear_error(
    process_1: tuple[str, ...], volume: Path, settings: dict[str, str]
) -> None:
    done = subprocess.run(
        [*process_1, TKDB, "serve"],
        env=BARE | settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "writable for this user" in done.stderr
