"""Become another program, which the kernel kills when the process that started it ends. Run as a script.

    python -I -S end_with_parent.py PARENT_PID /path/to/litestream replicate ...

A supervisor that is killed can't stop its child, and a child left behind would go on writing to the object store.
The kernel can (prctl(2), PR_SET_PDEATHSIG), but only the child itself can ask for it; and Python's own hook for that,
``preexec_fn``, is not safe in a process with threads. On other systems than Linux there is nothing like it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def main(parent_pid: int, program: str, *arguments: str) -> None:
    """Replace this process by ``program``."""
    if sys.platform == "linux":
        if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise SystemExit("the kernel refuses PR_SET_PDEATHSIG")
        if os.getppid() != parent_pid:
            raise SystemExit("the process that started this one has ended")
    os.execv(program, [program, *arguments])  # noqa: S606 -- to become that program is what this is for


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
