"""The URL of an authority.

A URL may name one region behind an address that all regions share, such as ``http://tkdb.flycast?region=syd``. The
proxy at that address is then asked for that region, and for no other (``fly-force-region``).

>>> Url.parse("http://[fdaa::3]:8080/tkdb/").host_header
'[fdaa::3]:8080'
>>> Url.parse("http://tkdb.flycast/?region=syd")
Url(scheme='http', host='tkdb.flycast', port=80, prefix='', region='syd')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from tkdb import errors

_PORTS = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[!-~]+").fullmatch
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?").fullmatch
_QUERY = re.compile(r"region=([a-z0-9-]{1,32})").fullmatch


@dataclass(frozen=True, slots=True)
class Url:
    """The URL of an authority: scheme, host, port, a prefix of the API's paths, and a region if the URL names one.

    Source: https://fly.io/docs/networking/dynamic-request-routing/
    """

    scheme: str
    host: str
    port: int
    prefix: str
    region: str = ""

    @classmethod
    def parse(cls, text: str) -> Url:
        """Return the URL in ``text``.

        Raises:
            ConfigurationError: it isn't ``http://`` or ``https://`` with a host, or it contains credentials, a
                fragment, or a query other than ``region=CODE``.
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise _unusable("the URL can't be read") from None
        is_host = _is_ipv6 if "[" in parts.netloc else _is_name
        if parts.scheme not in _PORTS or not is_host(host) or port == 0:
            raise _unusable("the URL must begin with http:// (or https://) and a host, in ASCII")
        region = _QUERY(parts.query)
        if "@" in parts.netloc or "#" in text or ("?" in text and region is None):
            raise _unusable("the URL must contain no credentials, no fragment, and no query except ?region=CODE")
        if not _PRINTABLE(text):
            raise _unusable("the URL contains a character that must be percent-encoded")
        return cls(
            parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"), region[1] if region else ""
        )

    @property
    def host_header(self) -> str:
        """The Host header: an IPv6 address in brackets, and the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        query = f"?region={self.region}" if self.region else ""
        return f"{self.scheme}://{self.host_header}{self.prefix}{query}"


def _is_name(host: str) -> bool:
    return len(host) <= 253 and _NAME(host) is not None


def _is_ipv6(host: str) -> bool:
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _unusable(message: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(message, hint="give a URL such as http://tkdb.flycast")
