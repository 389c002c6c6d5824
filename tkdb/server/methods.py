"""The methods of ``tkdb.api``, by name.

>>> BY_NAME["mint"]
('/v1/sign', <class 'tkdb.api.Mint'>)
>>> name_of(BY_NAME["mint"][1])
'mint'
"""

from __future__ import annotations

from typing import Any, Final, get_args

from tkdb import api

Kind = type[api.Call[Any]]


def name_of(call: api.Call[Any] | Kind) -> str:
    """Return the name of a call's method."""
    return str(call.__struct_config__.tag)


def summary_of(kind: Kind) -> str:
    """Return the description of a method: its docstring, on one line."""
    return " ".join((kind.__doc__ or "").replace("``", "`").split())


BY_NAME: Final[dict[str, tuple[str, Kind]]] = {
    name_of(kind): (path, kind) for path, union in api.CALLS_BY_PATH.items() for kind in get_args(union) or (union,)
}
"""Each method's path and class, in the order of ``tkdb.api``."""
