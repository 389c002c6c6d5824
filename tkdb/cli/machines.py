"""The machines of one authority, each at its own URL, asked concurrently for ``status`` and ``promote``.

>>> urls(["http://a,http://b", "http://a"])
['http://a', 'http://b']
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Self

import typer

from tkdb.cli.connect import TIMEOUT_MS, connect
from tkdb.cli.output import Cell, Marked, UsageError, bad, good
from tkdb.errors import ConfigurationError, TkdbError

if TYPE_CHECKING:
    from types import TracebackType

    from tkdb import api
    from tkdb_client import Client

Urls = Annotated[
    list[str] | None,
    typer.Option("--url", metavar="URL", help="The URL of a machine; repeat it for more. Default: TKDB_URL."),
]

EACH_TIMEOUT_MS: Final = 2_000
"""The time limit of each call if there are several machines: the command waits for the slowest one."""


def urls(given: Iterable[str] | None) -> list[str]:
    """Return each URL in ``given``, or else in ``TKDB_URL``, once. Commas separate URLs.

    Raises:
        UsageError: there is no URL.
        ConfigurationError: there are too many, or one can't be used.
    """
    texts = list(given or ()) or os.environ.get("TKDB_URL")
    if not texts:
        raise UsageError("TKDB_URL is not set", hint="set it, or give --url; `tkdb dev` prints one")
    from tkdb_client import settings  # imported only by commands that call the authority, because the import is slow

    return [str(url) for url in settings.urls(texts)]


@dataclass(frozen=True, slots=True)
class Asked:
    """The result for one machine: its ``report`` after ``rtt_ms``, or else the ``error``."""

    url: str
    report: api.StatusReport | None = None
    rtt_ms: float = 0
    error: TkdbError | None = None

    @property
    def fault(self) -> str:
        """The reason why the machine can't answer calls now; empty if it can."""
        return self.report.fault if self.report is not None else str(self.error)


class Machines:
    """The clients of machines. Use it as a context manager, which closes the clients.

    Raises:
        ConfigurationError: a URL, or a setting, can't be used.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        timeout_ms = EACH_TIMEOUT_MS if len(urls) > 1 else TIMEOUT_MS
        self._connected: set[str] = set()
        with ExitStack() as stack:
            self._clients = {url: stack.enter_context(connect(url=url, timeout_ms=timeout_ms)) for url in urls}
            self._cleanup = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def client(self, url: str) -> Client:
        """Return the client of the machine at ``url``."""
        return self._clients[url]

    def ask(self) -> list[Asked]:
        """Ask all machines concurrently, and return the results in the order of the URLs."""
        with ThreadPoolExecutor(len(self._clients)) as pool:
            return list(pool.map(self._ask, self._clients))

    def _ask(self, url: str) -> Asked:
        client = self._clients[url]
        try:
            if url not in self._connected:
                client.status()  # not timed, because the first call also looks up the name and connects
                self._connected.add(url)
            started = time.perf_counter()
            report = client.status()
            return Asked(url, report, round((time.perf_counter() - started) * 1000, 1))
        except ConfigurationError:
            raise
        except TkdbError as error:
            return Asked(url, error=error)


def newest(asked: Iterable[Asked]) -> api.Cluster | None:
    """Return the newest head that any machine knows, or None if none of them knows a head."""
    known = [each.report.cluster for each in asked if each.report is not None and each.report.cluster is not None]
    return max(known, key=lambda head: (head.rev, -head.read_ms, -head.unchanged_ms), default=None)


def is_led(head: api.Cluster) -> bool:
    """Return True if the head was read within the bound, and names a primary whose lease hasn't run out."""
    return head.is_current and bool(head.primary) and head.unchanged_ms <= head.lease_ms


def seconds(ms: int) -> str:
    """Return a span of time as text, in seconds."""
    return f"{ms / 1000:.1f} s"


def role_of(report: api.StatusReport) -> str:
    """Return a machine's role; empty if the machine hasn't read the head within its bound."""
    return report.role if report.cluster is None or report.cluster.is_current else ""


def role_cell(role: str) -> Cell:
    """Return a machine's role, ``unknown`` if it is empty. The primary is set off."""
    if not role:
        return bad("unknown")
    return Marked(role, "bold") if role == "primary" else role


def age_cell(age_ms: int | None) -> str:
    """Return the age of a machine's data."""
    return "unknown" if age_ms is None else seconds(age_ms)


def health_cell(fault: str) -> Cell:
    """Return the health of a machine that has this fault; empty: none."""
    return bad("faulty") if fault else good("ok")
