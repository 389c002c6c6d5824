"""``tkdb`` with a skewed wall clock: ``skewed.py SECONDS COMMAND …``."""

from __future__ import annotations

import sys
import time


def main(offset_s: int) -> None:
    wall_s, wall_ns = time.time, time.time_ns
    time.time = lambda: wall_s() + offset_s
    time.time_ns = lambda: wall_ns() + offset_s * 1_000_000_000

    from tkdb import cli  # Must come after the clock is set: modules may keep a reference to it.

    cli.main()


if __name__ == "__main__":
    main(int(sys.argv.pop(1)))
