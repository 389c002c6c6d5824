"""The fork server: a process that has imported everything, and forks for each command and each machine of the tests.

    python -m tests.forks.server DESCRIPTOR SOCKET PROFILE

The test process owns the other end of DESCRIPTOR. A process forked for it is *its* child (clone(2), CLONE_PARENT), so
`subprocess.Popen` waits for it, signals it and counts its CPU time like any other child. A program that isn't the
test process (a shell that runs the documents' commands) connects to SOCKET; see `tests/forks/tkdb.py`.

Rules:

- The server starts no thread, event loop or connection, so each fork begins with only its three standard streams.
- When the test process ends, its end of the socket closes. The server then kills every process that it forked, and
  ends.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.forks import forking_init
from tests.forks.child import become, preload, prepare

MESSAGE_MAX: Final = 1 << 20
CLONE_PARENT: Final = 0x00008000
CLONE: Final = {"x86_64": 56, "aarch64": 220}
"""The number of the system call clone(2), by architecture."""

Order = dict[str, Any]


def works_here() -> bool:
    """Return True if processes can be forked for their parent on this system."""
    return sys.platform == "linux" and platform.machine() in CLONE


def clone() -> int:
    """Fork as `os.fork` does, but make the new process a child of this process's parent."""
    python, libc = ctypes.pythonapi, ctypes.PyDLL(None)  # Both keep the GIL, which a fork requires.
    python.PyOS_BeforeFork()
    pid = int(libc.syscall(CLONE[platform.machine()], CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return pid


class Server:
    """The loop: read an order, fork, and kill every fork when the owner has ended."""

    def __init__(self, owner: socket.socket, listener: socket.socket) -> None:
        self._owner = owner
        self._selector = selectors.DefaultSelector()
        self._selector.register(owner, selectors.EVENT_READ, self._on_owner)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._on_shell(listener))
        self._running: set[int] = set()
        self._ended = False

    def run(self) -> None:
        """Carry out orders until the owner ends."""
        while not self._ended:
            for key, _ in self._selector.select():
                key.data()
        for running in self._running:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(running, signal.SIGKILL)

    def _on_owner(self) -> None:
        message, descriptors, _, _ = socket.recv_fds(self._owner, MESSAGE_MAX, 4)
        if not message:
            self._ended = True
            return
        pid = clone()
        if pid == 0:
            self._start(json.loads(message), descriptors)
        _close(descriptors)
        if pid > 0:
            self._watch(os.pidfd_open(pid))
        self._owner.send(str(pid).encode())

    def _on_shell(self, listener: socket.socket) -> None:
        shell, _ = listener.accept()
        message, descriptors, _, _ = socket.recv_fds(shell, MESSAGE_MAX, 3)
        if len(descriptors) < 3:
            return
        pid = os.fork()
        if pid == 0:
            self._start(json.loads(message), descriptors)
        _close(descriptors)
        running = os.pidfd_open(pid)
        self._watch(running, shell, pid)
        self._selector.register(shell, selectors.EVENT_READ, lambda: self._on_signal(shell, running))

    def _on_signal(self, shell: socket.socket, running: int) -> None:
        """Pass the signal that a shell's program got to its process. Kill the process if the program has ended."""
        received = shell.recv(16)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(running, int(received) if received else signal.SIGKILL)
        if not received:
            self._selector.unregister(shell)

    def _watch(self, running: int, shell: socket.socket | None = None, pid: int = 0) -> None:
        """Keep a process's descriptor until the process ends. For a shell's process, wait for it and send its code."""
        self._running.add(running)

        def ended() -> None:
            self._selector.unregister(running)
            self._running.discard(running)
            os.close(running)
            if shell is not None:
                _, status = os.waitpid(pid, 0)
                with suppress(KeyError):
                    self._selector.unregister(shell)
                with suppress(OSError):
                    shell.send(str(os.waitstatus_to_exitcode(status)).encode())
                shell.close()

        self._selector.register(running, selectors.EVENT_READ, ended)

    def _start(self, order: Order, descriptors: list[int]) -> NoReturn:
        """Give a forked process its streams, directory and session. Run its program, or a namespace init."""
        try:
            for number, descriptor in enumerate([os.dup(each) for each in descriptors]):
                os.dup2(descriptor, number)
            os.sched_setaffinity(0, order.get("cores") or os.sched_getaffinity(0))
            os.chdir(order["folder"])
            if order["session"]:
                os.setsid()
            if not order["arguments"]:
                os.closerange(forking_init.DESCRIPTOR + 1, 1 << 20)
                prepare(order["environment"])
                forking_init.keep()
            become(order["arguments"], order["environment"])
        except BaseException as error:  # noqa: BLE001  a fork must never go on as the server
            os.write(2, f"the fork server: {error!r}\n".encode())
        finally:
            os._exit(127)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def serve(owner: socket.socket, path: str) -> None:
    """Serve an owner, and shells at ``path``, from this process as it is."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    gc.collect()
    gc.freeze()  # A collection in a fork then leaves these objects' pages shared.
    owner.send(b"ready")
    try:
        Server(owner, listener).run()
    finally:
        Path(path).unlink(missing_ok=True)


def main(descriptor: int, path: str, profile: str) -> None:
    """Serve the owner at the other end of ``descriptor``, and shells at ``path``."""
    owner = socket.socket(fileno=descriptor)
    owner.set_inheritable(False)
    preload(profile)
    threads = threading.active_count()
    if threads != 1:
        raise SystemExit(f"an import started {threads - 1} threads, which a fork would lose")
    serve(owner, path)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
