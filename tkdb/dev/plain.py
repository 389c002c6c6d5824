"""Messages as plain JSON, for ``tkdb dev``: values that are bytes in msgpack become text that people can write.

Ids of 16 bytes (kid, nonce, branch, subject) are 32 lower-case hex digits. A caveat is its JSON array, or a string
with that array's text.

>>> from tkdb import api
>>> read(api.Mint, {"organization": "acme", "caveats": [["act", "r"], '["aud","shop"]']})
Mint(organization='acme', caveats=[b'["act","r"]', b'["aud","shop"]'], expires_in_s=None)
>>> write(api.Lineage(kid=bytes(16), nonce=bytes(16)))["kid"]
'00000000000000000000000000000000'
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from tkdb import api, errors

HEX_PATTERN: Final = "^[0-9a-f]{32}$"
_HEX: Final = re.compile(r"[0-9a-f]{32}")

S = TypeVar("S", bound=msgspec.Struct)


def read(kind: type[S], value: object) -> S:
    """Return the message of type ``kind`` that the JSON value represents.

    Raises:
        InvalidRequest: a field is missing, unknown or wrong.
    """
    try:
        return msgspec.convert(_with_bytes(inspect.type_info(kind), value), kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise errors.InvalidRequest(api.problem(error), hint="see /openapi.json") from None


def write(message: msgspec.Struct) -> Any:
    """Return ``message`` as a value that JSON can represent."""
    return _with_hex(msgspec.to_builtins(message, builtin_types=(bytes,)))


def _with_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _with_hex(item) for name, item in value.items()}
    return [_with_hex(item) for item in value] if isinstance(value, list) else value


def _with_bytes(info: inspect.Type, value: Any) -> Any:
    """Turn each value that ``info`` defines as bytes into bytes. Wrong values stay, and ``convert`` refuses them."""
    if isinstance(info, inspect.BytesType):
        return _caveat(value) if info.min_length is None else _id(value)
    if isinstance(info, inspect.ListType) and isinstance(value, list):
        return [_with_bytes(info.item_type, item) for item in value]
    if isinstance(info, inspect.StructType) and isinstance(value, dict):
        types = {field.encode_name: field.type for field in info.fields}
        return {name: _with_bytes(types[name], item) if name in types else item for name, item in value.items()}
    if isinstance(info, inspect.UnionType):
        return _with_bytes(_member(info, value), value)
    return value


def _member(info: inspect.UnionType, value: Any) -> inspect.Type:
    """Return the member of a tagged union that ``value`` represents."""
    for member in info.types:
        if not isinstance(member, inspect.StructType) or not isinstance(value, dict):
            continue
        if member.tag_field is not None and value.get(member.tag_field) == member.tag:
            return member
    return inspect.AnyType()


def _id(value: Any) -> Any:
    return bytes.fromhex(value) if isinstance(value, str) and _HEX.fullmatch(value) else value


def _caveat(value: Any) -> Any:
    if isinstance(value, list):
        return msgspec.json.encode(value)
    return value.encode() if isinstance(value, str) else value
