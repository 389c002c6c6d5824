"""Limits on what is read: each token, caveat and bundle has a hard bound, checked before work is done.

>>> Limits().caveats
64
"""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader accepts at most. Bytes are those of the binary form.

    ``depth`` and ``discharges`` bound what third-party caveats may bring along in one bundle.
    """

    token_bytes: int = 16 * 1024
    caveats: int = 64
    discharges: int = 16
    depth: int = 4
    bundle_bytes: int = 32 * 1024


DEFAULT = Limits()
