"""The limits on input. Each token, caveat and bundle has a hard limit, which is checked before any work is done.

>>> Limits().caveats
64
"""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The maximum sizes that a reader accepts. Bytes are counted in the binary form.

    ``depth`` and ``discharges`` limit the discharges that third-party caveats may need in one bundle.
    """

    token_bytes: int = 16 * 1024
    caveats: int = 64
    discharges: int = 16
    depth: int = 4
    bundle_bytes: int = 32 * 1024


DEFAULT = Limits()
