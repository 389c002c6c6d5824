"""Checks of the client's own kinds of arguments: tokens, targets, names of organizations and request ids. Pure.

The general rule and the checks of texts, numbers and durations are in `tkdb.arguments`.

>>> token_text(None)
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: token=None is not a token: pass its text, or a Macaroon
>>> request_id("00112233445566778899aabbccddeeff").hex()
'00112233445566778899aabbccddeeff'
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from re import ASCII
from re import compile as compile_pattern
from typing import Any, Final, TypeAlias, TypeVar

from tkdb import api, errors
from tkdb.arguments import members, reject, whole, whole_seconds
from tkdb.macaroon.token import Macaroon

Token: TypeAlias = Macaroon | str
RequestId: TypeAlias = bytes | str
"""16 random bytes, or their hexadecimal text: ``OutcomeUnknown`` has the one, and its text shows the other."""

REQUEST_ID_BYTES: Final = 16
KID_BYTES: Final = 16

T = TypeVar("T", bound=api.Call[Any])

_ORGANIZATION = compile_pattern(r"[a-z0-9][a-z0-9._-]{0,62}", ASCII).fullmatch
_MACHINE = compile_pattern(r"[A-Za-z0-9._-]{1,64}", ASCII).fullmatch
_HEX = compile_pattern(r"[0-9a-fA-F]{32}", ASCII).fullmatch
_TOKENS: Final = (str, Macaroon)
_TOKEN_HINT: Final = "pass its text, or a Macaroon"  # noqa: S105  not a secret


def token_text(token: object, name: str = "token") -> str:
    """Return the text of a token.

    Raises:
        ConfigurationError: it is neither text nor a ``Macaroon``.
    """
    if isinstance(token, Macaroon):
        return token.text
    if not isinstance(token, str):
        reject(name, token, "is not a token", _TOKEN_HINT)
    return token


def token(value: object, name: str = "token") -> Token:
    """Return a token as it was given.

    Raises:
        ConfigurationError: it is neither text nor a ``Macaroon``.
    """
    if not isinstance(value, _TOKENS):
        reject(name, value, "is not a token", _TOKEN_HINT)
    return value


def tokens(values: object) -> list[Token]:
    """Return the tokens of a list, which may be empty.

    Raises:
        ConfigurationError: it isn't a list, or one of its members isn't a token.
    """
    if isinstance(values, str | bytes | Macaroon) or not isinstance(values, Iterable):
        reject("tokens", values, "is not a list of tokens", "pass [token], or call verify")
    return [token(each, f"tokens[{index}]") for index, each in enumerate(values)]


def targets(values: object) -> list[Token | api.Target]:
    """Return the tokens and targets of a list that isn't empty.

    Raises:
        ConfigurationError: it isn't such a list.
    """
    found = members("targets", values, hint="pass a list of tokens, or of targets such as api.Lineage")
    for index, each in enumerate(found):
        if not isinstance(each, str | Macaroon | api.Target):
            hint = "pass its text, a Macaroon, or a target such as api.Lineage"
            reject(f"targets[{index}]", each, "is neither a token nor a target", hint)
    return found


def organization(value: object, name: str = "organization") -> str:
    """Return the name of an organization.

    Raises:
        ConfigurationError: it can't be one.
    """
    if not isinstance(value, str) or not _ORGANIZATION(value):
        reject(name, value, "is not the name of an organization", "write 1 to 63 of a-z, 0-9, dot, dash and underscore")
    return value


def machine(value: object) -> str:
    """Return the name of a machine.

    Raises:
        ConfigurationError: it can't be one.
    """
    if not isinstance(value, str) or not _MACHINE(value):
        reject("machine", value, "is not the name of a machine", "copy it from `tkdb status`")
    return value


def subject(value: object) -> str | None:
    """Return the subject of tokens to be revoked, or None.

    Raises:
        ConfigurationError: it can't be one.
    """
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= api.MAX_SUBJECT):
        reject("subject", value, "is not a subject", "pass the text that was given to mint, or leave it out for all")
    return value


def kid(value: object, name: str = "kid") -> bytes:
    """Return the name of a root key.

    Raises:
        ConfigurationError: it isn't 16 bytes.
    """
    if not isinstance(value, bytes) or len(value) != KID_BYTES:
        reject(name, value, "is not the name of a key", "pass its 16 bytes, such as token.kid")
    return value


def kids(values: object) -> list[bytes]:
    """Return the names of root keys.

    Raises:
        ConfigurationError: there is none, there are too many, or one isn't 16 bytes.
    """
    found = members("kids", values, hint="pass a list of keys' names, such as [token.kid]")
    if len(found) > api.MAX_KIDS:
        reject("kids", values, f"names more than {api.MAX_KIDS:,} keys", "ask for fewer at a time")
    return [kid(each, f"kids[{index}]") for index, each in enumerate(found)]


def count(name: str, value: object, *, hint: str) -> int | None:
    """Return a position or a time, or None.

    Raises:
        ConfigurationError: it isn't a whole number from 0 on.
    """
    return None if value is None else whole(name, value, least=0, hint=hint)


def max_lifetime_s(value: object) -> int:
    """Return the longest lifetime of an organization's tokens.

    Raises:
        ConfigurationError: it isn't a number of whole seconds.
    """
    return whole_seconds("max_lifetime_s", value)


def request_id(value: RequestId | None) -> bytes | None:
    """Return the bytes of a request id, or None.

    Raises:
        ConfigurationError: it isn't one.
    """
    if isinstance(value, str) and _HEX(value):
        return bytes.fromhex(value)
    if value is not None and not (isinstance(value, bytes) and len(value) == REQUEST_ID_BYTES):
        reject(
            "request_id", value, "is not a request id", "pass 16 bytes, such as os.urandom(16), or their 32 hex digits"
        )
    return value


def request_id_of_part(whole_id: bytes, part: int) -> bytes:
    """Return the request id of one of several requests that carry out a single call. The first has the call's own.

    It depends on nothing else, so that a call repeated with its id repeats each request with the request's id.
    """
    return whole_id if part == 0 else hashlib.sha256(whole_id + part.to_bytes(8)).digest()[:REQUEST_ID_BYTES]


def callback(name: str, value: Callable[..., object] | None) -> None:
    """Check a function that may be left out.

    Raises:
        ConfigurationError: it isn't a function.
    """
    if value is not None and not callable(value):
        reject(name, value, "is not a function", "pass a function, or leave it out")


def readable(path: str, call: T) -> T:
    """Return ``call`` if the authority can read it: the last check, of the fields of a target, for example.

    Raises:
        ConfigurationError: it can't.
    """
    try:
        api.decode_request(path, api.encode(call))
    except errors.InvalidRequest as error:
        raise errors.ConfigurationError(error.message, hint="correct this field of the target") from None
    except (TypeError, ValueError, OverflowError):
        raise errors.ConfigurationError(
            "a target has a field of a wrong type", hint="see the classes of tkdb.api"
        ) from None
    return call
