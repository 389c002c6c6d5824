"""A wrapper that runs a command and records its CPU seconds, for the sum of `make test` (``tests/cpu.py``).

    python -I -S tests/metered.py mypy .venv/bin/mypy

The figure replaces the last one of that name in `.pytest_cache/metered/`. The exit code is the command's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(".pytest_cache", "metered")


def own_s() -> float:
    """Return the CPU seconds of this process and of the children that it waited for."""
    return sum(os.times()[:4])


def main(name: str, *command: str) -> int:
    """Run ``command`` to its end, record its CPU seconds under ``name``, and return its exit code."""
    code = subprocess.run(command, check=False).returncode
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(f"{own_s():.2f}")
    return code if code >= 0 else 128 - code  # Shells report a signal in this way.


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
