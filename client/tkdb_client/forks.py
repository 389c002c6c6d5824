"""Renewal in the child of a fork.

A fork copies locks that other threads hold, and the threads are gone: the child would wait for them forever. It copies
sockets, too, and two processes on one connection would mix their requests. So each object here that has locks, threads
or sockets is renewed in the child, before any of the app's code runs there. Its parts are made again, and nothing of
the old parts is used.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """An object that must be renewed in the child of a fork."""

    def _renew(self) -> None:
        """Make all locks, threads and connections again. No other thread runs."""


_renewables: WeakSet[Renewable] = WeakSet()


def renewed_after_fork(renewable: Renewable) -> None:
    """Renew an object in each child of this process, for as long as the object lives."""
    _renewables.add(renewable)


def _renew_all() -> None:
    for renewable in list(_renewables):
        renewable._renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_all)
