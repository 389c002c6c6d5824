"""The signers: each one's public key, organizations and permissions, as the configuration lists them.

>>> signers = Signers.parse_toml('''
... [[signer]]
... name = "api"
... key = "tkdbsignerpub_zfL76nbtJj_ARzVHuceHGyRTiys_a5h7jByRzA8HuHJ2-lq1zoqTeoMbbwE600Yu7P_DZmpynC9M-tiQEfKsTQ0s4gxF"
... organizations = ["acme"]
... may = ["mint", "revoke"]
... ''')
>>> signers.by_name("api").permits("mint", "acme")
True
>>> signers.by_name("api").permits("mint", "initech")
False

A retired signer (``retired = true``, or an empty ``may``) can do nothing, and the channel opens no message of it. The
list keeps its key and its name, so that an audit can still check its entries.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

import msgspec

from tkdb import errors
from tkdb.channel.keys import SignerPublic

Permission = Literal["mint", "revoke", "organizations", "reseal", "restore", "promote"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
Organization = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z0-9][a-z0-9._-]{0,62})\Z")]

ALL: Final = "*"
_EVERY: Final = frozenset({ALL})


@dataclass(frozen=True, slots=True)
class Signer:
    """One signer: its key, its organizations, and its permissions. A signer without a permission is retired.

    ``organizations`` contains names, or is exactly ``{"*"}`` for all organizations, including future ones.
    """

    name: str
    key: SignerPublic
    organizations: frozenset[str]
    may: frozenset[Permission]

    @property
    def retired(self) -> bool:
        """True if the signer can do nothing. It is listed only for the audit."""
        return not self.may

    def permits(self, permission: Permission, organization: str) -> bool:
        """Return True if the signer has this permission for ``organization``."""
        return permission in self.may and self.acts_for(organization)

    def acts_for(self, organization: str) -> bool:
        """Return True if the signer may act for ``organization``."""
        return not self.retired and (self.organizations == _EVERY or organization in self.organizations)


class Signers:
    """The list of signers.

    Raises:
        ConfigurationError: two signers have the same name or the same key.
    """

    def __init__(self, signers: Iterable[Signer]) -> None:
        self._by_key: dict[SignerPublic, Signer] = {}
        self._by_name: dict[str, Signer] = {}
        for signer in signers:
            if signer.name in self._by_name:
                raise _unusable(signer.name, "name", "another signer has it")
            if signer.key in self._by_key:
                raise _unusable(signer.name, "key", f"{self._by_key[signer.key].name} has it")
            self._by_name[signer.name] = self._by_key[signer.key] = signer

    @classmethod
    def parse_toml(cls, text: str) -> Self:
        """Return the signers in the TOML document ``text``, each in a table ``[[signer]]``.

        Raises:
            ConfigurationError: it isn't TOML, or a signer's field is unknown, missing, repeated, empty or wrong. The
                message
                names the signer and the field.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise errors.ConfigurationError("the list of signers is not text in UTF-8")
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number with thousands of digits raises a bare ValueError
            raise errors.ConfigurationError(
                f"the list of signers is not TOML ({_place(error)})", hint="write one [[signer]] table a signer"
            ) from None
        tables = document.pop("signer", [])
        if document:
            raise errors.ConfigurationError(
                f"the list of signers has an unknown table or field {min(document)!r}",
                hint="write one [[signer]] table a signer",
            )
        if not isinstance(tables, list):
            raise errors.ConfigurationError("[signer] is one table", hint="write [[signer]], with two brackets")
        return cls(_signer(table, place) for place, table in enumerate(tables, start=1))

    def active_keys(self) -> list[SignerPublic]:
        """Return the keys that the channel opens messages of: those of all signers that aren't retired."""
        return [signer.key for signer in self if not signer.retired]

    def by_key(self, key: SignerPublic) -> Signer:
        """Return the signer with this key. The key comes from the channel, which opens only for active keys."""
        return self._by_key[key]

    def by_name(self, name: str) -> Signer:
        """Return the signer with the name ``name``.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise errors.NotFound(f"no signer has the name {name!r}", hint="see the list of signers") from None

    def __iter__(self) -> Iterator[Signer]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ``[[signer]]`` table."""

    name: Name
    key: str
    organizations: Annotated[list[Organization], msgspec.Meta(min_length=1)]
    may: list[Permission] | None = None
    retired: bool = False


def _signer(table: object, place: int) -> Signer:
    given = table.get("name") if isinstance(table, dict) else None
    name = given[:64] if isinstance(given, str) else f"number {place}"
    try:
        read = msgspec.convert(table, _Table)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        raise _unusable(name, path.rstrip("`").partition("[")[0] or "fields", problem) from None
    if read.may is None and not read.retired:
        raise _unusable(name, "may", "it is missing")
    may = read.may or []
    for field, values in (("organizations", read.organizations), ("may", may)):
        if len(set(values)) != len(values):
            raise _unusable(name, field, "one is listed twice")
    if ALL in read.organizations and len(read.organizations) > 1:
        raise _unusable(name, "organizations", '"*" means all organizations, so it can\'t be listed with others')
    try:
        key = SignerPublic.parse(read.key)
    except errors.ConfigurationError as error:
        raise _unusable(name, "key", str(error)) from None
    return Signer(read.name, key, frozenset(read.organizations), frozenset() if read.retired else frozenset(may))


def _unusable(name: str, field: str, problem: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"signer {name}, field {field}: {problem}", hint="correct it in the list of signers (TKDB_SIGNERS)"
    )


def _place(error: Exception) -> str:
    """Return only the place of the error in the document, because the parser's message may quote the document."""
    _, found, place = str(error).rpartition("(at ")
    return f"at {place.rstrip(')')}" if found else "nested too deeply, or with too long a number"
