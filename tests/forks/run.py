"""A program of the repository, run unchanged, whose `tkdb` processes are forked like those of the tests.

    python -m tests.forks.run bench.regions --quick
    python -m tests.forks.run docs/demo.py

The tests' fork server must fork this process. It has then imported everything, and forks a fork server of its own
before it starts any thread.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tests.forks import popen, server


def main(program: str, *arguments: str) -> None:
    """Run a module or a script with these arguments."""
    if server.works_here():
        popen.FORKS.start_here()
        popen.install()
    sys.argv = [program, *arguments]
    try:
        if program.endswith(".py"):
            sys.path[0] = str(Path(program).parent)
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        popen.uninstall()


if __name__ == "__main__":
    main(*sys.argv[1:])
