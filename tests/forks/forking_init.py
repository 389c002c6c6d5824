"""A lab's namespace init, forked from the fork server. It forks each `tkdb serve`, instead of starting an interpreter.

It takes the place of `unshare … python -m tkdb_ops.flycast.namespace_init`. It is the product's code, with two changes:
its own start, and exec(2) for command lines that `child.is_known` accepts.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from typing import Any, Final, NoReturn

from tests.forks import child
from tkdb_ops.flycast import namespace_init
from tkdb_replication.litestream.end_with_parent import PR_SET_PDEATHSIG

CLONE_NEWPID: Final = 0x20000000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
DESCRIPTOR: Final = 3
"""The owner's socket, in this process."""


def keep() -> NoReturn:
    """Make namespaces as unshare(1) does, and keep them in a child, which the kernel kills when this process ends."""
    namespace_init.unshare(namespace_init.CLONE_NEWNS | namespace_init.CLONE_NEWNET | CLONE_NEWPID)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(DESCRIPTOR)
        _, status = os.waitpid(pid, 0)
        os._exit(max(0, os.waitstatus_to_exitcode(status)))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _mount("proc", "/proc", "proc", MS_NOSUID_NODEV_NOEXEC)
    vars(namespace_init)["os"] = System()
    code = 0
    try:
        namespace_init.main(DESCRIPTOR)
    except BaseException as error:  # noqa: BLE001  its owner reads this output
        os.write(2, f"the namespace init, a child of {parent}: {error!r}\n".encode())
        code = 1
    _end_children()
    os._exit(code)


def _end_children() -> None:
    """Kill all processes of this namespace, as the kernel would, and wait for them, so that their CPU time counts."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """Mount as mount(2) does.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def execute(program: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Become a program: without exec(2) if this process has imported the program, otherwise by exec(2)."""
    plain, variables = child.without_env(arguments)
    if child.is_known(plain):
        child.become(plain, environment | variables)
    os.execvpe(program, arguments, environment)  # noqa: S606  this is its purpose


class System:
    """The module `os` with another `execvpe`, for the namespace init."""

    execvpe = staticmethod(execute)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
