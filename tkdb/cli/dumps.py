"""Dumps of this process's memory, which would contain secrets: off, before a command reads any.

A core dump writes the memory to a disk, and a debugger or ``/proc/…/mem`` shows it to every process of the same user.
On Linux, a process that isn't dumpable has neither (prctl(2), PR_SET_DUMPABLE); only root may still look. The limit on
core dumps holds on every system, and for the processes that this one starts.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Final

from tkdb.errors import ConfigurationError

PR_SET_DUMPABLE: Final = 4


def switch_off() -> None:
    """Forbid dumps of this process from now on.

    Raises:
        ConfigurationError: the system refuses.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            _forbid()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or "the system refuses"
        raise ConfigurationError(
            f"dumps of this process can't be switched off: {cause}",
            hint="allow prctl and setrlimit (a seccomp profile may forbid them)",
        ) from None


def _forbid() -> None:
    import ctypes  # imported here, because only Linux needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
