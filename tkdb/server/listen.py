"""The listening socket. It is bound before anything else starts, so that a taken port is reported at once.

>>> from tkdb.settings import Address
>>> listener, address = listen(Address.parse("127.0.0.1:0"))
>>> address.port > 0
True
>>> listen(address)  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: can't listen at 127.0.0.1:...: another process listens there: stop it...
>>> listener.close()
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from tkdb import errors
from tkdb.settings import Address

BACKLOG: Final = 1_024
UNSENT_MS: Final = 30_000
"""The time for which a caller may leave sent data unread before its connection is dropped (TCP_USER_TIMEOUT)."""

_CAUSES: Final = {
    errno.EADDRINUSE: ("another process listens there", "stop it, or choose another port"),
    errno.EACCES: ("this user may not use the port", "choose a port above 1023"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "choose 0.0.0.0 or 127.0.0.1"),
}


def listen(address: Address) -> tuple[socket.socket, Address]:
    """Return a socket that listens at ``address``, and the address with its actual port.

    Raises:
        ConfigurationError: it can't listen there. The message gives the cause.
    """
    family = socket.AF_INET6 if address.host.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_MS)
        listener.bind((str(address.host), address.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        cause, hint = _CAUSES.get(error.errno or 0, (error.strerror or "the system refused", "choose another address"))
        raise errors.ConfigurationError(f"can't listen at {address}: {cause}", hint=hint) from None
    return listener, Address(address.host, listener.getsockname()[1])
