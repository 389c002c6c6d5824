"""Every exception survives a pickle and a copy: one that doesn't hangs the process pool that it is raised in."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest

import tkdb
import tkdb_client
import tkdb_ops
import tkdb_replication
from tkdb.errors import CaveatUnmet, Denied, StaleAuthority, TkdbError, Unavailable
from tkdb.server.problems import HTTP_VERSION, ProblemError
from tkdb_client.web.rejection import Rejection

FRAMEWORKS = ("tkdb_client.django", "tkdb_client.fastapi", "tkdb_client.flask")
"""Modules that need a framework that is set up."""


def classes() -> list[type[Exception]]:
    """Return every exception class that the project defines."""
    found = set()
    for package in (tkdb, tkdb_client, tkdb_replication, tkdb_ops):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name in FRAMEWORKS or module.name.endswith("__main__"):
                continue
            for kind in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__.startswith("tkdb"):
                    found.add(kind)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def instance(kind: type[Exception]) -> Exception:
    """Return an error of a class, with a value for each of its arguments."""
    if kind is Rejection:
        return Rejection.unmet(CaveatUnmet("no", caveat=2, hint="ask"))
    if kind is ProblemError:
        return ProblemError(HTTP_VERSION, "no", headers=[(b"a", b"b")], close=True)
    values = {"hint": "h", "caveat": 3, "retry_after_ms": 9}
    parameters = inspect.signature(kind).parameters if issubclass(kind, TkdbError) else {}
    return kind("what", **{name: value for name, value in values.items() if name in parameters})


def pickled(error: Exception) -> Any:
    """Return the error that another process would get."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301  it was pickled here


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__qualname__)
@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
def test_an_error_comes_back_equal(kind: type[Exception], again: Callable[[Any], Any]) -> None:
    error = instance(kind)
    error.__cause__ = None
    back = again(error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert facts(back) == facts(error)


def facts(error: Any) -> Any:
    """Return an error's class and attributes, and those of the errors within it."""
    if isinstance(error, Exception):
        return type(error), error.args, {name: facts(value) for name, value in vars(error).items()}
    return error


@pytest.mark.parametrize(
    "rejection",
    [
        Rejection.missing(),
        Rejection.malformed("two headers"),
        Rejection.denied(CaveatUnmet("no")),
        Rejection.denied(StaleAuthority("later")),
        Rejection.unavailable(Unavailable("later", retry_after_ms=7)),
    ],
)
def test_every_rejection_comes_back_equal(rejection: Rejection) -> None:
    assert facts(pickled(rejection)) == facts(rejection)


def test_an_error_that_keeps_its_arguments_to_itself_is_found() -> None:
    """The control: what a class without ``__reduce__`` does."""

    class Plain(TkdbError):
        def __init__(self, message: str, more: str) -> None:
            super().__init__(message)
            self.more = more

    with pytest.raises(TypeError, match="more"):
        copy.copy(Plain("a", "b"))
    assert Denied in classes()
