"""Checks of arguments: each argument of the Python API that can't be meant raises an error with its name. Pure.

One rule holds for every method: ``None`` means "not given", and nothing else does. An empty text or collection, a value
of a wrong type and a number out of range raise ``ConfigurationError``, before anything is sent. (If the argument
restricts a token, it is an ``InvalidCaveat``.) The message names the argument, and the hint its accepted form.

No error repeats a secret: a token may stand where another argument belongs.

>>> seconds("expires_in_s", timedelta(minutes=5))
300.0
>>> whole("wait_ms", "3", least=0, hint="pass milliseconds")
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: wait_ms='3' is not a whole number from 0 on: pass milliseconds
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from re import ASCII
from re import compile as compile_pattern
from typing import Any, Final, NoReturn, TypeAlias

from tkdb.errors import ConfigurationError, TkdbError

Duration: TypeAlias = float | timedelta
"""A number of the unit in the argument's name, or a ``timedelta``."""

MOST: Final = 2**53 - 1
"""The largest number that every reader of a message reads exactly."""

_NUMBERS: Final = (int, float)
_SHOWN: Final = (str, int, float, list, tuple, dict, set, frozenset, type(None))
_SHOWN_MOST: Final = 100
_SECRET = compile_pattern(r"tkdb[a-z]*_[\w-]{8,}|[\w-]{40,}", ASCII).search


def shown(value: object) -> str:
    """Return a value for an error: as a literal if that is short and can't be a secret, and otherwise its type.

    >>> shown("rw"), shown(b"key"), shown("x" * 64), shown(None)
    ("'rw'", 'a bytes of length 3', 'a str of length 64', 'None')
    """
    if type(value) in _SHOWN:
        literal = ascii(value)
        if len(literal) <= _SHOWN_MOST and not _SECRET(literal):
            return literal
    length = f" of length {len(value)}" if isinstance(value, str | bytes | list | tuple | dict) else ""
    return f"a {type(value).__name__}{length}"


def reject(
    name: str, value: object, problem: str, hint: str, *, kind: type[TkdbError] = ConfigurationError
) -> NoReturn:
    """Raise an error of the class ``kind`` about the argument ``name``."""
    literal = shown(value)
    subject = f"{name} is {literal}, which" if literal.startswith("a ") else f"{name}={literal}"
    raise kind(f"{subject} {problem}", hint=hint)


def text(name: str, value: object, *, hint: str, kind: type[TkdbError] = ConfigurationError) -> str:
    """Return ``value`` if it is text and isn't empty.

    Raises:
        ConfigurationError: it is anything else.
    """
    if not isinstance(value, str):
        reject(name, value, "is not text", hint, kind=kind)
    if not value:
        reject(name, value, "is empty", hint, kind=kind)
    return value


def members(name: str, value: object, *, hint: str) -> list[Any]:
    """Return the members of a collection that isn't empty. A text isn't a collection: its members are letters.

    Raises:
        ConfigurationError: it is anything else.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        reject(name, value, "is not a list", hint)
    found = list(value)
    if not found:
        reject(name, value, "names nothing", hint)
    return found


def whole(name: str, value: object, *, least: int, most: int = MOST, hint: str) -> int:
    """Return ``value`` if it is an integer from ``least`` to ``most``.

    Raises:
        ConfigurationError: it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        upper = "on" if most == MOST else f"to {most:,}"
        reject(name, value, f"is not a whole number from {least} {upper}", hint)
    return value


def seconds(name: str, value: object, *, kind: type[TkdbError] = ConfigurationError) -> float:
    """Return the seconds of a duration.

    Raises:
        ConfigurationError: it is neither a number nor a ``timedelta``, or it is negative.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, _NUMBERS) or not 0 <= number <= MOST:
        reject(name, value, "is not a duration", _DURATION, kind=kind)
    return number


def whole_seconds(name: str, value: object, *, kind: type[TkdbError] = ConfigurationError) -> int:
    """Return the seconds of a duration of whole seconds, at least 1.

    Raises:
        ConfigurationError: it is anything else.
    """
    number = seconds(name, value, kind=kind)
    if number < 1 or int(number) != number:
        reject(name, value, "is not a number of whole seconds from 1 on", _DURATION, kind=kind)
    return int(number)


def milliseconds(name: str, value: object, *, least: int = 1, most: int = MOST) -> int:
    """Return the whole milliseconds of a duration, given in milliseconds or as a ``timedelta``.

    Raises:
        ConfigurationError: it is anything else, or isn't from ``least`` to ``most``.
    """
    number = value // timedelta(milliseconds=1) if isinstance(value, timedelta) else value
    return whole(name, number, least=least, most=most, hint="pass whole milliseconds, or a timedelta")


_DURATION: Final = "pass seconds as a number, or a timedelta such as timedelta(minutes=5)"
