"""The inputs of commands: secrets (never from arguments), durations, times and resources.

>>> duration("90s"), duration("5m"), duration("1h"), duration("7d")
(90, 300, 3600, 604800)
>>> resources(["app:shop=rw", "app:web=r"])
{'app': {'shop': 'rw', 'web': 'r'}}
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tkdb.cli.output import UsageError

if TYPE_CHECKING:
    from tkdb.journal.seal import SealKeys

MAX_DURATION_S: Final = 100 * 366 * 86_400
MAX_INPUT_BYTES: Final = 1 << 20

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,12})([smhd]?)", re.ASCII).fullmatch
# tkdb's own armor, or the bare base64url of a macaroon. No file name has such a long run up to its end.
_SECRET = re.compile(
    r"(?:^|[=,:\s])(?:tkdb(?:auth|signer|seal)?_[\w-]{24,}|A[g-v][\w-]{80,})(?=$|[,\s])", re.ASCII
).search


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse secrets among the arguments, before any output can repeat them.

    Raises:
        UsageError: an argument is a secret, or isn't text.
    """
    for argument in arguments:
        if _SECRET(argument):
            raise UsageError(
                "a token or a secret key is among the arguments: treat it as leaked (it is in your shell's history and"
                " in other users' process lists), and revoke or replace it",
                hint="pass it on stdin (tkdb … < token.txt), with --token-file, or in the environment (TKDB_TOKEN)",
            )
        if not argument.isascii() and any("\ud800" <= each <= "\udfff" for each in argument):
            raise UsageError("an argument isn't UTF-8 text")


def token(path: str | None) -> str:
    """Return the token: from the file ``path`` (``-``: stdin), else from stdin, else from ``TKDB_TOKEN``.

    Raises:
        UsageError: there is no token.
    """
    text = _read(path, "TKDB_TOKEN")
    if text is None:
        raise UsageError(
            "no token is given", hint="pass it on stdin (tkdb … < token.txt), with --token-file, or in TKDB_TOKEN"
        )
    return text


def secret(path: str | None, *variables: str) -> str:
    """Return a secret: from the file ``path`` (``-``: stdin), else from stdin, else from a variable.

    That is the first of ``variables`` that is set, itself or with ``_FILE`` after its name (then it names a file).

    Raises:
        UsageError: there is no secret.
    """
    text = _read(path, *variables)
    if text is None:
        raise UsageError("no secret is given", hint=f"pass it on stdin, with --file, or in {' or '.join(variables)}")
    return text


def setting(variable: str) -> str | None:
    """Return the value of an environment variable, or the content of the file that ``variable`` with ``_FILE`` names.

    Raises:
        UsageError: the file can't be read.
    """
    if os.environ.get(variable):
        return os.environ[variable].strip()
    path = os.environ.get(variable + "_FILE")
    return _file(path).strip() if path else None


def seal_keys() -> SealKeys:
    """Return the sealing secrets of ``TKDB_SEAL_KEYS``.

    Raises:
        UsageError: there is no secret.
        ConfigurationError: one of them is invalid.
    """
    from tkdb.journal.seal import SealKeys

    text = setting("TKDB_SEAL_KEYS")
    if text is None:
        raise UsageError("no sealing secret is given", hint="set TKDB_SEAL_KEYS or TKDB_SEAL_KEYS_FILE")
    return SealKeys.parse(text)


def document(path: str) -> str:
    """Return the text of the file ``path``; ``-`` is stdin.

    Raises:
        UsageError: it can't be read.
    """
    return _file(path) if path != "-" else _text(sys.stdin.buffer.read(MAX_INPUT_BYTES + 1))


def _read(path: str | None, *variables: str) -> str | None:
    if path is not None and path != "-":
        return _file(path).strip()
    if path == "-" or _is_redirected():
        text = _text(sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)).strip()
        if text or path == "-":
            return text or None
    return next(filter(None, map(setting, variables)), None)


def _is_redirected() -> bool:
    """Return True if stdin is a file, a pipe or a socket, which means that the command should read it."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return _text(file.read(MAX_INPUT_BYTES + 1))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}", hint="give the path of another file") from None
    except ValueError:
        raise UsageError("a path is expected, and this can't be a path") from None


def _text(raw: bytes) -> str:
    if len(raw) > MAX_INPUT_BYTES:
        raise UsageError(f"the input has more than {MAX_INPUT_BYTES:,} bytes", hint="give one token or key")
    return raw.decode("utf-8", "replace")


def duration(text: str) -> int:
    """Return the seconds in ``text``: ``90s``, ``5m``, ``1h``, ``7d``, or a number of seconds.

    Raises:
        UsageError: it is anything else, 0, or more than 100 years.
    """
    match = _DURATION(text)
    seconds = int(match[1]) * _UNITS_S[match[2] or "s"] if match else 0
    if not 1 <= seconds <= MAX_DURATION_S:
        raise UsageError(f"{text[:40]!a} is not a duration", hint="write 90s, 5m, 1h or 7d")
    return seconds


def instant(text: str) -> float:
    """Return the Unix seconds in ``text``: a number, or a date and time (ISO 8601; UTC if it has no zone).

    Raises:
        UsageError: it is anything else.
    """
    try:
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text, re.ASCII):
            return float(text)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"{text[:40]!a} is not a time", hint="write 2026-01-31T12:00:00Z, or Unix seconds") from None


def resources(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the grants in texts of the form ``KIND:ID=ACTIONS``, as kind to id to actions.

    Raises:
        UsageError: a text has another form, or an id is given twice.
    """
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        kind, colon, rest = text.partition(":")
        name, equals, actions = rest.rpartition("=")
        if not (colon and equals and kind and name and actions):
            raise UsageError(f"{text[:80]!a} is not KIND:ID=ACTIONS", hint="write app:shop=rw, or app:*=r")
        if name in found.setdefault(kind, {}):
            raise UsageError(f"{kind}:{name} is given twice"[:120], hint="write its actions together")
        found[kind][name] = actions
    return found


def identifier(text: str, size: int, what: str) -> bytes:
    """Return the ``size`` bytes in ``text``, which is hexadecimal. ``what`` names the value in the error.

    Raises:
        UsageError: the text is anything else.
    """
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * size}}}", text, re.ASCII) is None:
        raise UsageError(f"{what} has {2 * size} hexadecimal digits", hint="copy it from `tkdb token inspect`")
    return bytes.fromhex(text)
