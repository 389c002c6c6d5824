"""The client's settings, from arguments or the environment: the authority's URL and identity, and the signer's secret.

==================== ===============================================================================================
``TKDB_URL``         its URL, such as ``http://tkdb.flycast``; several, one for each region, separated by commas;
                     one may name a region of a shared address, ``http://tkdb.flycast?region=syd``
``TKDB_AUTHORITY``   its name and public key, ``NAME=tkdbpub_…``; two keys during a rotation
``TKDB_SIGNER``      a signer's secret, ``tkdbsigner_…``; only for those who mint or administer
``TKDB_SIGNER_FILE`` the same, in a file
==================== ===============================================================================================

An argument takes precedence over the environment, and ``TKDB_SIGNER`` over ``TKDB_SIGNER_FILE``. ``signer=""`` means no
signer, whatever the environment contains.

>>> Settings.read(None, None, None, {})
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: no URL of the authority: set TKDB_URL or pass url=, such as http://tkdb.flycast
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.errors import ConfigurationError
from tkdb.net.url import Url

URLS_MAX: Final = 64


def urls(texts: str | Iterable[str]) -> tuple[Url, ...]:
    """Return each URL of ``texts`` once, in order. Commas separate them.

    Raises:
        ConfigurationError: there is none, there are too many, or one can't be used.

    >>> [str(each) for each in urls("http://syd.tkdb.internal:8080, http://ams.tkdb.internal:8080/")]
    ['http://syd.tkdb.internal:8080', 'http://ams.tkdb.internal:8080']
    """
    parts = [part.strip() for text in ([texts] if isinstance(texts, str) else texts) for part in text.split(",")]
    found = tuple(dict.fromkeys(Url.parse(part) for part in parts if part))
    if not found:
        raise ConfigurationError(
            "no URL of the authority", hint="set TKDB_URL or pass url=, such as http://tkdb.flycast"
        )
    if len(found) > URLS_MAX:
        raise ConfigurationError(
            f"there are {len(found)} URLs, and at most {URLS_MAX} are allowed", hint="give one for each region"
        )
    return found


@dataclass(frozen=True, slots=True)
class Settings:
    """The authority's URLs and identity, and the signer's secret."""

    urls: tuple[Url, ...]
    authority: AuthorityIdentity
    signer: SignerSecret | None

    @classmethod
    def read(
        cls,
        url: str | Iterable[str] | None,
        authority: AuthorityIdentity | str | None,
        signer: SignerSecret | str | None,
        environ: Mapping[str, str],
    ) -> Settings:
        """Return the settings: each argument, or the value in ``environ``.

        Raises:
            ConfigurationError: one is missing or can't be used.
        """
        where = urls(url or environ.get("TKDB_URL", ""))
        authority = authority or environ.get("TKDB_AUTHORITY")
        if not authority:
            raise ConfigurationError(
                "no name and public key of the authority", hint="set TKDB_AUTHORITY or pass authority="
            )
        if signer is None:
            signer = environ.get("TKDB_SIGNER") or _signer_in(environ.get("TKDB_SIGNER_FILE"))
        return cls(
            urls=where,
            authority=AuthorityIdentity.parse(authority.strip()) if isinstance(authority, str) else authority,
            signer=SignerSecret.parse(signer.strip()) if isinstance(signer, str) and signer else signer or None,
        )


def _signer_in(path: str | None) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise ConfigurationError(f"TKDB_SIGNER_FILE can't be read: {what}", hint=f"check {path}") from None
