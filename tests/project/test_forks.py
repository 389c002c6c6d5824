"""A forked `tkdb` is a real process: it inherits nothing from the fork server or from other processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import BARE, TKDB, running, tkdb
from tests.forks import child, popen, server
from tests.waiting import until
from tkdb_ops.flycast import namespaces

pytestmark = pytest.mark.skipif(not server.works_here(), reason="processes are forked on Linux only")

ROOT = Path(__file__).parents[2]

STARTER = f"""
import subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.forks import popen
popen.install()
print(popen.FORKS.folder, flush=True)
node = subprocess.Popen([{TKDB!r}, "dev"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
node.stdout.readline()
print(node.pid, popen.FORKS.server, flush=True)
input()
"""


def code(text: str, **environment: str) -> str:
    """Run code in a forked process, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", f"{text}  # {child.CODE}"],
        env=BARE | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ids(process: int) -> tuple[int, bytes]:
    """Return the parent and the command line of a process."""
    fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[1]), Path(f"/proc/{process}/cmdline").read_bytes()


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[bytes]]:
    """A `tkdb` that waits for its standard input."""
    with subprocess.Popen(
        [TKDB, "token", "inspect"], env=BARE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def test_a_forked_process_is_a_child_of_the_test_and_not_a_new_interpreter(waiting: subprocess.Popen[bytes]) -> None:
    parent, command = ids(waiting.pid)
    assert parent == os.getpid()
    assert b"tests.forks.server" in command


def test_a_forked_process_has_its_three_streams_and_no_other_descriptor(waiting: subprocess.Popen[bytes]) -> None:
    until(lambda: {path.name for path in Path(f"/proc/{waiting.pid}/fd").iterdir()} == {"0", "1", "2"})


def test_a_forked_process_ends_on_a_signal_like_any_other(waiting: subprocess.Popen[bytes]) -> None:
    waiting.send_signal(signal.SIGKILL)
    assert waiting.wait(60) == -signal.SIGKILL


def test_a_forked_process_has_the_programs_exit_code_and_outputs() -> None:
    ran = tkdb("nonsense")
    assert (ran.code, ran.out, ran.err.splitlines()[0]) == (2, "", "error: No such command 'nonsense'")
    assert code("import sys; sys.stdout.write('x'); sys.exit(0)") == "x"
    failed = subprocess.run([sys.executable, "-c", f"1/0  # {child.CODE}"], env=BARE, capture_output=True, check=False)
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, b"ZeroDivisionError: division by zero")


def test_each_process_has_its_own_environment_folder_session_and_randomness(tmp_path: Path) -> None:
    assert code("import os; print(sorted(os.environ))", ONLY="1") == str(sorted({**BARE, "ONLY": "1"}))
    text = f"import os, random; print(os.getcwd(), os.getsid(0) == os.getpid(), random.random())  # {child.CODE}"
    ended = [
        subprocess.run(
            [sys.executable, "-c", text],
            cwd=tmp_path, env=BARE, start_new_session=True, capture_output=True, text=True, check=True,
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert [each[:2] for each in ended] == [[str(tmp_path), "True"]] * 2
    assert ended[0][2] != ended[1][2]


def test_signals_are_handled_as_by_the_interpreter_even_after_a_reset() -> None:
    numbers = "(signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD)"
    shown = f"import signal; print([str(signal.getsignal(each)).partition(' at ')[0] for each in {numbers}])"
    with subprocess.Popen([sys.executable, "-I", "-c", shown], stdout=subprocess.PIPE, text=True) as real:
        assert real.stdout is not None
        expected = real.stdout.read().strip()
    assert code(shown) == expected
    again = [sys.executable, "-c", f"{shown}  # {child.CODE}"]
    reset = f"import os, signal; [signal.signal(each, signal.SIG_DFL) for each in {numbers}]"
    assert code(f"{reset}; from tests.forks import child; child.become({again!r}, dict(os.environ))") == expected


def test_a_forked_namespace_init_has_its_own_namespaces_and_ends_when_its_socket_is_closed() -> None:
    if (why := namespaces.unfit()) is not None:
        pytest.skip(f"regions can't be isolated here: {why}")
    own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = ["unshare", sys.executable, *popen.NAMESPACE_INIT, str(theirs.fileno())]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=BARE) as process:
        theirs.close()
        own.send(json.dumps({"id": 1, "do": "namespace", "name": "n", "forward": False}).encode())
        assert json.loads(own.recv(4096))["id"] == 1
        assert b"tests.forks.server" in ids(process.pid)[1]
        init = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip()
        for kind in ("net", "mnt", "pid"):
            assert Path(f"/proc/{init}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()
        own.close()
        assert process.wait(60) == 0
    until(lambda: not _runs(int(init)))


def test_no_warning_filter_and_no_event_loop_is_inherited() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", "import warnings; print(len(warnings.filters))"], stdout=subprocess.PIPE, text=True
    ) as real:
        assert real.stdout is not None
        expected = real.stdout.read().strip()
    looped = "import asyncio, warnings; print(len(warnings.filters), asyncio._get_running_loop())"
    assert code(looped) == f"{expected} None"


def test_each_litestream_is_asked_for_its_version_once_and_again_after_it_is_replaced(tmp_path: Path) -> None:
    program, asked = tmp_path / "litestream", tmp_path / "asked"
    program.write_text(f"#!/bin/sh\necho asked >> {asked}\necho 0.5.17\n")
    program.chmod(0o700)
    found = f"asyncio.run(Program.find(beside=Path({str(tmp_path)!r})))"
    replaced = f"open({str(program)!r}, 'a').write('# replaced')"
    imports = "import asyncio; from pathlib import Path; from tkdb_replication.litestream.binary import Program"
    assert code(f"{imports}; {found}; {found}; print(open({str(asked)!r}).read().count('asked'))") == "1"
    assert code(f"{imports}; {found}; {replaced}; {found}; print(open({str(asked)!r}).read().count('asked'))") == "3"


def test_the_fork_server_and_its_processes_end_with_the_test_process() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdin=-1, stdout=-1, text=True, env=BARE) as starter:
        assert starter.stdout is not None
        folder = Path(starter.stdout.readline().strip())
        started = [int(word) for word in starter.stdout.readline().split()]
        assert all(Path(f"/proc/{process}").exists() for process in started)
        starter.kill()
    until(lambda: not any(_runs(process) for process in started))
    until(lambda: not (folder / "server").exists())


def _runs(process: int) -> bool:
    """Return True if a process runs. A zombie, which has ended but hasn't been waited for, doesn't."""
    try:
        return b") Z " not in Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False


def test_a_shell_gets_the_same_streams_and_exit_codes() -> None:
    def shell(command: str) -> tuple[int, str]:
        path = f"{popen.on_path()}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command], env=BARE | {"PATH": path}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout

    assert shell("tkdb nonsense") == (2, "")
    assert shell("tkdb keys generate --kind seal 2>/dev/null | wc -l") == (0, "1\n")
    assert shell("echo x | tkdb token inspect 2>&1 | head -1")[1].startswith("error: this is not a token")
    ended = "coproc tkdb dev 2>/dev/null; read <&${COPROC[0]}; kill $COPROC_PID; wait $COPROC_PID"
    assert shell(ended) == (0, "")


@pytest.mark.real_start
def test_the_marker_real_start_starts_the_real_program() -> None:
    with running("dev") as process:
        assert process.stdout is not None
        process.stdout.readline()
        parent, command = ids(process.pid)
        assert parent == os.getpid()
        assert TKDB.encode() in command
