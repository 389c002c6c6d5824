"""The client's settings, from arguments or the environment: the authority's URL and identity, and the signer's secret.

==================== ===============================================================================================
``TKDB_URL``         its URL, such as ``http://tkdb.flycast``; several, one for each region, separated by commas;
                     one may name a region of a shared address, ``http://tkdb.flycast?region=syd``
``TKDB_AUTHORITY``   its name and public key, ``NAME=tkdbpub_…``; two keys during a rotation
``TKDB_SIGNER``      a signer's secret, ``tkdbsigner_…``; only for those who mint or administer
``TKDB_SIGNER_FILE`` the same, in a file
==================== ===============================================================================================

An argument takes precedence over the environment, and ``TKDB_SIGNER`` over ``TKDB_SIGNER_FILE``. ``signer=NO_SIGNER``
means no signer, whatever the environment contains. An argument or a variable that is given but empty is an error: it
never means "not given".

>>> Settings.read(None, None, None, {})
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: no URL of the authority: set TKDB_URL or pass url=, such as http://tkdb.flycast
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tkdb.arguments import members, text
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.errors import ConfigurationError
from tkdb.net.url import Url

URLS_MAX: Final = 64
_URL: Final = "pass url=, such as http://tkdb.flycast"


class NoSigner(Enum):
    """The type of ``NO_SIGNER``."""

    NO_SIGNER = "no signer"


NO_SIGNER: Final = NoSigner.NO_SIGNER
"""As ``signer=``: no signer's key, whatever the environment contains. An empty text means the same."""


def urls(texts: str | Iterable[str]) -> tuple[Url, ...]:
    """Return each URL of ``texts`` once, in order. Commas separate them.

    Raises:
        ConfigurationError: there is none, there are too many, or one can't be used.

    >>> [str(each) for each in urls("http://syd.tkdb.internal:8080, http://ams.tkdb.internal:8080/")]
    ['http://syd.tkdb.internal:8080', 'http://ams.tkdb.internal:8080']
    """
    listed = [texts] if isinstance(texts, str) else members("url", texts, hint=_URL)
    parts = [part.strip() for each in listed for part in text("url", each, hint=_URL).split(",")]
    found = tuple(dict.fromkeys(Url.parse(part) for part in parts if part))
    if not found:
        raise ConfigurationError("no URL of the authority is in the list", hint=_URL)
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
        signer: SignerSecret | str | NoSigner | None,
        environ: Mapping[str, str],
    ) -> Settings:
        """Return the settings: each argument, or the value in ``environ``.

        Raises:
            ConfigurationError: one is missing or can't be used.
        """
        if url is None:
            url = _variable("TKDB_URL", environ)
            if url is None:
                raise ConfigurationError("no URL of the authority", hint=f"set TKDB_URL or {_URL}")
        if authority is None:
            authority = _variable("TKDB_AUTHORITY", environ)
            if authority is None:
                raise ConfigurationError(
                    "no name and public key of the authority", hint="set TKDB_AUTHORITY or pass authority="
                )
        if signer is None:
            signer = _variable("TKDB_SIGNER", environ) or _signer_in(_variable("TKDB_SIGNER_FILE", environ))
        return cls(urls=urls(url), authority=_authority(authority), signer=_signer(signer))


def _variable(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the value of a variable, or None if it isn't set."""
    value = environ.get(name)
    if value is not None and not value.strip():
        raise ConfigurationError(f"{name} is set, but it is empty", hint=f"give it a value, or unset {name}")
    return value


def _authority(authority: object) -> AuthorityIdentity:
    if isinstance(authority, AuthorityIdentity):
        return authority
    return AuthorityIdentity.parse(text("authority", authority, hint="pass NAME=tkdbpub_…").strip())


def _signer(signer: object) -> SignerSecret | None:
    if signer is None or signer is NO_SIGNER or signer == "":
        return None
    if isinstance(signer, SignerSecret):
        return signer
    return SignerSecret.parse(text("signer", signer, hint="pass tkdbsigner_…, or NO_SIGNER for none").strip())


def _signer_in(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        found = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise ConfigurationError(f"TKDB_SIGNER_FILE can't be read: {what}", hint=f"check {path}") from None
    if not found.strip():
        raise ConfigurationError("the file of TKDB_SIGNER_FILE is empty", hint=f"check {path}")
    return found
