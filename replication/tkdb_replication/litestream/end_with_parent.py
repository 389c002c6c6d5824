"""Become another program, which the kernel kills when the process that started it ends. Run as a script.

    python -I -S end_with_parent.py PARENT_PID /path/to/litestream replicate ...

A supervisor that is killed can't stop its child, and the child would continue to write to the object store. The kernel
can stop it (prctl(2), PR_SET_PDEATHSIG), but only the child itself can request that. Python's own hook for it,
``preexec_fn``, isn't safe in a process with threads. Only Linux has this feature.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def main(parent_pid: int, program: str, *arguments: str) -> None:
    """Replace this process with ``program``."""
    if sys.platform == "linux":
        if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise SystemExit("the kernel refuses PR_SET_PDEATHSIG")
        if os.getppid() != parent_pid:
            raise SystemExit("the process that started this one has ended")
    os.execv(program, [program, *arguments])  # noqa: S606 -- becoming that program is the purpose of this script


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
