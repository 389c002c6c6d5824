"""`subprocess.Popen` for the tests: it forks `tkdb` from the fork server instead of starting an interpreter.

Only the step that makes the child is replaced, so pipes, waits, signals and timeouts work exactly as before. The fork
server makes the child if the command line starts `tkdb` (`child.is_known`) and needs nothing that only exec(2) can do.
Otherwise the child is made in the usual way. This also applies to asyncio's subprocesses.

Rules:

- The marker `real_start` gives a test real starts and full probes of its object store. It is for tests of these.
- The server starts with the first forked process, and ends with the test session.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests import profiles
from tests.forks import child, server

ROOT: Final = Path(__file__).parents[2]

DEFAULTS: Final[dict[str, tuple[object, ...]]] = {
    "executable": (None,), "preexec_fn": (None,), "close_fds": (True,), "pass_fds": ((),), "startupinfo": (None,),
    "shell": (False,), "gid": (None,), "gids": (None,), "uid": (None,), "umask": (-1,), "process_group": (-1, None),
}  # fmt: skip
"""The values of `_execute_child`'s parameters for which a fork does the same as an exec."""

HARMLESS: Final = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"}
"""Variables that the interpreter reads at its start, but that don't affect what these tests check."""

LAUNCHER: Final = 5
"""The number of words before the program, in a command line that begins with `end_with_parent`."""

NAMESPACE_INIT: Final = ["-m", "tkdb_ops.flycast.namespace_init"]

_execute = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_parameters = inspect.signature(_execute)


class Forks:
    """The fork server of this test process."""

    def __init__(self) -> None:
        self.enabled = True
        self._lock = threading.Lock()
        self._server: int | None = None
        self._folder = ""

    @property
    def path(self) -> str:
        """The path of the socket at which shells ask for processes."""
        with self._lock:
            self._start()
        return f"{self._folder}/server"

    @property
    def folder(self) -> Path:
        """The folder of the server's files."""
        return Path(self.path).parent

    def fork(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        """Make the server fork a process, and return its id."""
        with self._lock:
            self._start()
            socket.send_fds(self._owner, [json.dumps(order).encode()], descriptors)
            return int(self._owner.recv(16) or -1)

    def close(self) -> None:
        """End the server, and with it every process that it forked."""
        with self._lock:
            if self._server is not None:
                self._owner.close()
                os.waitpid(self._server, 0)
                self._server = None
                shutil.rmtree(self._folder, ignore_errors=True)

    def start_here(self) -> None:
        """Fork the server from this process, which a fork server has forked."""
        theirs = self._prepare()
        self._server = os.fork()
        if self._server == 0:
            self._owner.close()
            os.setsid()
            server.serve(theirs, f"{self._folder}/server")
            os._exit(0)
        theirs.close()
        self._owner.recv(16)

    def _prepare(self) -> socket.socket:
        """Make the folder of the server, and both ends of its socket. Return the end of the server."""
        self._owner, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, server.MESSAGE_MAX)
        self._folder = tempfile.mkdtemp(prefix="tkdb-forks-")
        return theirs

    @property
    def server(self) -> int | None:
        """The server's process, if it runs."""
        return self._server

    def _start(self) -> None:
        if self._server is not None:
            return
        theirs = self._prepare()
        log = Path(self._folder, "log")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TKDB_", "PYTHON"))}
        with theirs, log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.forks.server", str(theirs.fileno()), f"{self._folder}/server",
                 profiles.CURRENT.name],
                cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._server = process.pid
        process.returncode = 0  # `close` waits for it, so no finalizer looks at it.
        if not self._owner.recv(16):
            raise RuntimeError(f"the fork server didn't start: {log.read_text()}")


FORKS: Final = Forks()


def install() -> None:
    """Fork from now on."""
    subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]


def uninstall() -> None:
    """Start interpreters again, and end the fork server."""
    subprocess.Popen._execute_child = _execute  # type: ignore[attr-defined]
    FORKS.close()


def _execute_child(process: Any, *given: Any, **named: Any) -> None:
    """Make the child of a `subprocess.Popen`. Use the fork server if the result is the same."""
    asked = _parameters.bind(process, *given, **named).arguments
    arguments = _words(asked["args"])
    environment = _environment(asked["env"])
    is_init = arguments[-3:-1] == NAMESPACE_INIT
    if not FORKS.enabled or not (is_init or _forkable(arguments, environment, asked)):
        _execute(process, *given, **named)
        return
    ends = [asked[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
    order = {
        "arguments": [] if is_init else _without_launcher(arguments),
        "environment": environment,
        "folder": os.fspath(asked["cwd"] or os.getcwd()),  # noqa: PTH109
        "session": bool(asked["start_new_session"]),
        "cores": sorted(os.sched_getaffinity(0)),
    }
    streams = [end if end != -1 else number for number, end in enumerate((ends[0], ends[3], ends[5]))]
    pid = FORKS.fork(order, [*streams, *asked["pass_fds"]])
    if pid < 0:
        _execute(process, *given, **named)
        return
    process.pid = pid
    process._child_created = True
    process._close_pipe_fds(*ends)


def _words(arguments: Any) -> list[str]:
    """Return the words of a command line, in any form that `subprocess.Popen` accepts."""
    return [
        os.fsdecode(each) for each in ([arguments] if isinstance(arguments, str | bytes | os.PathLike) else arguments)
    ]


def _environment(given: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return the environment for a child."""
    return {os.fsdecode(name): os.fsdecode(value) for name, value in (os.environ if given is None else given).items()}


def _without_launcher(arguments: list[str]) -> list[str]:
    """Return the command line without `end_with_parent`: the fork server kills its forks when the parent ends."""
    is_launched = len(arguments) > LAUNCHER and arguments[3].endswith("end_with_parent.py")
    return arguments[LAUNCHER:] if is_launched else arguments


def _forkable(arguments: list[str], environment: Mapping[str, str], asked: Mapping[str, Any]) -> bool:
    """Return True if a fork does the same as a start."""
    return (
        child.is_known(_without_launcher(arguments))
        and not any(name.startswith("PYTHON") for name in environment.keys() - HARMLESS)
        and all(asked.get(name, values[0]) in values for name, values in DEFAULTS.items())
        and (asked["cwd"] is None or os.path.isdir(asked["cwd"]))  # noqa: PTH112
    )


def on_path() -> str:
    """Return a folder for the PATH of a shell. Its `tkdb` forks if the system supports that."""
    if not server.works_here():
        return os.path.dirname(child.TKDB)  # noqa: PTH120
    program = FORKS.folder / "bin" / "tkdb"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        code = Path(__file__).with_name("tkdb.py").read_text()
        program.write_text(f"#!{sys.executable} -ISE\n{code}\n\nsys.exit(main({FORKS.path!r}, {child.TKDB!r}))\n")
        program.chmod(0o755)
    return str(program.parent)
