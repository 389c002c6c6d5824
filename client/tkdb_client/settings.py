"""What a client is told, by arguments or by the environment: where the authority is, who it is, and who we are.

==================== ===========================================================================
``TKDB_URL``         where it answers, such as ``http://tkdb.flycast``
``TKDB_AUTHORITY``   its name and public key, ``NAME=tkdbpub_…``; two keys while they are changed
``TKDB_SIGNER``      a signer's secret, ``tkdbsigner_…``; only for those who mint or administer
``TKDB_SIGNER_FILE`` the same, in a file
==================== ===========================================================================

An argument wins over the environment, ``TKDB_SIGNER`` over ``TKDB_SIGNER_FILE``.

>>> Settings.read(None, None, None, {})
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: no URL of the authority: set TKDB_URL or pass url=, such as http://tkdb.flycast
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.errors import ConfigurationError
from tkdb_client.transport import Url


@dataclass(frozen=True, slots=True)
class Settings:
    """Where, whom, and as whom."""

    url: Url
    authority: AuthorityIdentity
    signer: SignerSecret | None

    @classmethod
    def read(
        cls,
        url: str | None,
        authority: AuthorityIdentity | str | None,
        signer: SignerSecret | str | None,
        environ: Mapping[str, str],
    ) -> Settings:
        """Return the settings: each argument, or what ``environ`` says in its place.

        Raises:
            ConfigurationError: one is missing or can't be used.
        """
        url = url or environ.get("TKDB_URL")
        if not url:
            raise ConfigurationError(
                "no URL of the authority", hint="set TKDB_URL or pass url=, such as http://tkdb.flycast"
            )
        authority = authority or environ.get("TKDB_AUTHORITY")
        if not authority:
            raise ConfigurationError(
                "no name and public key of the authority", hint="set TKDB_AUTHORITY or pass authority="
            )
        signer = signer or environ.get("TKDB_SIGNER") or _signer_in(environ.get("TKDB_SIGNER_FILE"))
        return cls(
            url=Url.parse(url),
            authority=AuthorityIdentity.parse(authority.strip()) if isinstance(authority, str) else authority,
            signer=SignerSecret.parse(signer.strip()) if isinstance(signer, str) else signer,
        )


def _signer_in(path: str | None) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise ConfigurationError(f"TKDB_SIGNER_FILE can't be read: {what}", hint=f"look at {path}") from None
