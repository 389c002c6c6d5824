"""The keeper of namespaces and of the programs in them. It lives as long as its owner, and runs as a module.

::

    unshare --net --mount --pid --fork ... python -m tkdb_ops.flycast.namespace_init FD

The keeper is the first process of a PID namespace. When it ends, the kernel kills all other processes of the namespace.
With the last one, the network namespaces, the mounts and the TUN devices disappear, because none of them has a name
outside. The keeper ends when its socket is closed, and therefore when its owner ends in any way.

Orders and answers are JSON, one in each message, on a SEQPACKET socket. A socket that an order asks for is passed along
with the answer.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWNET: Final = 0x40000000
MS_BIND: Final = 0x1000
MESSAGE_MAX: Final = 1 << 18

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_OWN_SIGNALS: Final = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

Order = dict[str, Any]


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _checked(_LIBC.unshare(flags), "unshare")


def enter(namespace: int) -> None:
    """Move this process into the network namespace of a descriptor."""
    _checked(_LIBC.setns(namespace, CLONE_NEWNET), "setns")


def bind_mount(source: str, target: str) -> None:
    """Make the file ``source`` appear at ``target``, in this mount namespace."""
    _checked(_LIBC.mount(source.encode(), target.encode(), None, MS_BIND, None), f"mount {target}")


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class NamespaceInit:
    """The namespaces, by name, and the processes that were started in them."""

    def __init__(self, owner: socket.socket) -> None:
        self._owner = owner
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._namespaces: dict[str, int] = {}
        self._tuns: dict[str, int] = {}
        self._orders: dict[str, Callable[[Order], tuple[Order, list[int]]]] = {
            "namespace": self._namespace, "configure": self._configure, "tun": self._tun, "mount": self._mount,
            "spawn": self._spawn, "signal": self._signal, "socket": self._socket,
        }  # fmt: skip

    def run(self) -> None:
        """Carry out orders until the owner's end of the socket is closed."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._owner.fileno(), reader], [], [])
            if reader in ready:
                with suppress(BlockingIOError):
                    os.read(reader, 4096)
                self._reap()
            if self._owner.fileno() in ready:
                message = self._owner.recv(MESSAGE_MAX)
                if not message:
                    return
                self._carry_out(json.loads(message))

    def _carry_out(self, order: Order) -> None:
        passed: list[int] = []
        try:
            answer, passed = self._orders[order["do"]](order)
        except (OSError, subprocess.CalledProcessError) as error:
            answer = {"error": f"{order['do']}: {getattr(error, 'stderr', None) or error}"}
        self._say({"id": order["id"], **answer}, passed)
        for descriptor in passed:
            os.close(descriptor)

    def _say(self, answer: Order, passed: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
        with suppress(BrokenPipeError, ConnectionResetError):
            self._owner.sendmsg([json.dumps(answer).encode()], ancillary)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._say({"ended": pid, "code": os.waitstatus_to_exitcode(status)}, [])

    def _namespace(self, order: Order) -> tuple[Order, list[int]]:
        """Create a network namespace. With ``forward``, it forwards packets that aren't addressed to it."""
        unshare(CLONE_NEWNET)
        try:
            self._namespaces[order["name"]] = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            if order["forward"]:
                Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1", "ascii")
        finally:
            enter(self._home)
        return {"fd": self._namespaces[order["name"]]}, []

    def _configure(self, order: Order) -> tuple[Order, list[int]]:
        """Run ``ip -batch`` with ``lines`` in a namespace."""
        enter(self._namespaces[order["name"]])
        try:
            done = subprocess.run(
                ["ip", "-batch", "-"],  # noqa: S607  its path depends on the distribution
                input="\n".join(order["lines"]), text=True, capture_output=True, check=False,
            )  # fmt: skip
        finally:
            enter(self._home)
        return ({}, []) if done.returncode == 0 else ({"error": f"ip: {done.stderr.strip()}"}, [])

    def _tun(self, order: Order) -> tuple[Order, list[int]]:
        """Create the TUN device ``wg0`` in a namespace. The backbone gets its other end."""
        enter(self._namespaces[order["name"]])
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", b"wg0", _IFF_TUN_NO_PI))
        finally:
            enter(self._home)
        self._tuns[order["region"]] = descriptor
        return {}, []

    def _mount(self, order: Order) -> tuple[Order, list[int]]:
        """Make a file appear at another path, for all programs that start from now on."""
        bind_mount(order["source"], str(Path(order["target"]).resolve()))
        return {}, []

    def _spawn(self, order: Order) -> tuple[Order, list[int]]:
        """Start a program in the namespace ``name``; without a name, start the backbone with the TUN descriptors."""
        arguments = order["arguments"]
        if order["name"] is None:
            arguments = [*arguments, *(f"{region}={descriptor}" for region, descriptor in self._tuns.items())]
        pid = os.fork()
        if pid == 0:
            self._become(order, arguments)
        return {"pid": pid}, []

    def _become(self, order: Order, arguments: list[str]) -> NoReturn:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in _OWN_SIGNALS:  # A signal that is ignored here would stay ignored in the program.
                signal.signal(number, signal.SIG_DFL)
            if order["name"] is None:
                for descriptor in self._tuns.values():
                    os.set_inheritable(descriptor, True)
            else:
                enter(self._namespaces[order["name"]])
            if order["mounts"]:
                unshare(CLONE_NEWNS)
                for source, target in order["mounts"]:
                    bind_mount(source, target)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(order["folder"])
            os.execvpe(arguments[0], arguments, order["environment"])  # noqa: S606  the keeper's task
        except OSError as error:
            os.write(2, f"{arguments[0]}: {error}\n".encode())
        os._exit(127)

    def _signal(self, order: Order) -> tuple[Order, list[int]]:
        """Send a signal to a process and to every process that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(order["pid"], order["number"])
        return {}, []

    def _socket(self, order: Order) -> tuple[Order, list[int]]:
        """Create a socket that stays in a namespace, whichever process uses it."""
        enter(self._namespaces[order["name"]])
        try:
            made = socket.socket(order["family"], order["type"])
        finally:
            enter(self._home)
        return {}, [made.detach()]


def main(descriptor: int) -> None:
    """Keep namespaces for the owner at the other end of ``descriptor``."""
    for number in (signal.SIGINT, signal.SIGTERM):  # The owner handles Ctrl-C.
        signal.signal(number, signal.SIG_IGN)
    owner = socket.socket(fileno=descriptor)
    owner.set_inheritable(False)
    NamespaceInit(owner).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
