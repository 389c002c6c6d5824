"""``tkdb`` on a machine whose wall clock is elsewhere: ``skewed.py SECONDS COMMAND …``."""

from __future__ import annotations

import sys
import time

offset_s = int(sys.argv.pop(1))
wall_s, wall_ns = time.time, time.time_ns
time.time = lambda: wall_s() + offset_s
time.time_ns = lambda: wall_ns() + offset_s * 1_000_000_000

from tkdb.cli import main  # noqa: E402  after the clock was set

main()
