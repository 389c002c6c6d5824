"""The paths in the bucket. Pure.

>>> fresh_base(7, random_bytes=lambda count: bytes(count))
'epochs/00000007-0000000000000000'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

HEAD_KEY: Final = "head"
"""The name of the head."""

BASES: Final = "epochs/"
"""The prefix of every path that Litestream writes to."""


def fresh_base(epoch: int, *, random_bytes: Callable[[int], bytes]) -> str:
    """Return a path that no Litestream ever wrote to.

    Two Litestreams on one path overwrite each other without a warning. The random part separates machines that try to
    begin the same epoch, and one machine's attempts.
    """
    return f"{BASES}{epoch:08}-{random_bytes(8).hex()}"
