"""``tkdb keys``: the generation of secrets, their public forms, and the resealing of records."""

from __future__ import annotations

import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from tkdb.cli import inputs
from tkdb.cli.command import command
from tkdb.cli.connect import connect
from tkdb.cli.options import RequestId
from tkdb.cli.output import Output, UsageError, faint, good
from tkdb.errors import ConfigurationError

app = typer.Typer(name="keys", help="Generate keys, show their public forms, and reseal records.")


class Kind(StrEnum):
    """The kind of secret to generate."""

    AUTHORITY = "authority"
    SIGNER = "signer"
    SEAL = "seal"
    ALL = "all"


VARIABLES: Final = {Kind.AUTHORITY: "TKDB_AUTHORITY_KEY", Kind.SEAL: "TKDB_SEAL_KEYS", Kind.SIGNER: "TKDB_SIGNER"}
SIGNERS_FILE: Final = "signers.toml"
_SIGNERS: Final = """\
[[signer]]
name = "operator"
key = "{key}"
organizations = ["*"]
may = ["mint", "revoke", "organizations", "reseal", "restore", "promote"]
"""

KindOption = Annotated[Kind, typer.Option(help="The kind of secret.")]
Directory = Annotated[
    Path | None, typer.Option(metavar="PATH", help="The folder for files with mode 0600. Default: print instead.")
]
SecretFile = Annotated[str | None, typer.Option("--file", metavar="PATH", help="The file with the secret; - is stdin.")]
NameOption = Annotated[str | None, typer.Option(metavar="NAME", help="The authority's name. Default: TKDB_NAME.")]


@command(app)
def generate(output: Output, kind: KindOption = Kind.ALL, directory: Directory = None) -> None:
    """Generate secrets, and print them or write them to files.

    A secret is the authority's key, a signer's key, or a sealing secret. A first machine needs all three, which is the
    default. A folder in a Git repository is refused.

    \b
    $ tkdb keys generate --directory ../keys
    ../keys/authority.key
    ../keys/seal.key
    ../keys/signer.key
    ../keys/signers.toml
    next: TKDB_NAME=tkdb.example TKDB_AUTHORITY_KEY_FILE=../keys/authority.key … tkdb serve
    """
    secrets = {each: _generate(each) for each in VARIABLES if kind in {each, Kind.ALL}}
    if directory is None:
        lines = [f"{VARIABLES[each]}={text}" for each, text in secrets.items()]
        output.result({each.value: text for each, text in secrets.items()}, *_bare_if_one(lines))
        output.note(faint("keep these as safe as passwords; `tkdb keys public` shows the public forms"))
        return
    files = {f"{each.value}.key": text + "\n" for each, text in secrets.items()}
    if kind is Kind.ALL:
        files[SIGNERS_FILE] = _SIGNERS.format(key=_signer_public(secrets[Kind.SIGNER]))
    paths = _write(directory, files)
    following = _next(kind, directory)
    output.result({"files": paths, "next": following}, *paths)
    output.note(f"next: {following}")


def _bare_if_one(lines: list[str]) -> list[str]:
    return [line.partition("=")[2] for line in lines] if len(lines) == 1 else lines


def _generate(kind: Kind) -> str:
    from tkdb.channel.keys import AuthoritySecret, SignerSecret
    from tkdb.journal.seal import KEY_BYTES, SealKey

    if kind is Kind.AUTHORITY:
        return AuthoritySecret.generate(os.urandom).text()
    return SignerSecret.generate(os.urandom).text() if kind is Kind.SIGNER else SealKey(os.urandom(KEY_BYTES)).text()


def _signer_public(secret: str) -> str:
    from tkdb.channel.keys import SignerSecret

    return SignerSecret.parse(secret).public.text()


def _write(directory: Path, files: dict[str, str]) -> list[str]:
    """Write new files that only their owner may read, and return their paths. Existing files are never overwritten."""
    taken = [str(directory / name) for name in files if (directory / name).exists()]
    if taken:
        raise ConfigurationError(f"{', '.join(taken)} already exists", hint="give another --directory")
    try:
        _require_no_repository(directory.resolve())
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, text in files.items():
            path = directory / name
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(text, encoding="ascii")
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or directory} can't be written: {error.strerror}", hint="give another --directory"
        ) from None
    except ValueError:
        raise UsageError("a path is expected, and this can't be a path") from None
    return [str(directory / name) for name in files]


def _require_no_repository(directory: Path) -> None:
    """Return if ``directory`` is in no Git repository, whose files are soon committed or copied into an image.

    Raises:
        UsageError: it is in one.
    """
    for folder in (directory, *directory.parents):
        if (folder / ".git").exists():
            raise UsageError(
                f"{directory} is in the Git repository {folder}, and secrets there are soon committed",
                hint="give a --directory outside of it, such as ~/tkdb-keys",
            )


def _next(kind: Kind, directory: Path) -> str:
    """Return the next command."""
    folder = shlex.quote(str(directory))
    if kind is Kind.SEAL:
        return f"put {folder}/seal.key first in TKDB_SEAL_KEYS, restart the authority, then: tkdb keys reseal"
    if kind is not Kind.ALL:
        return f"tkdb keys public --file {folder}/{kind.value}.key"
    return (
        f"TKDB_NAME=tkdb.example TKDB_AUTHORITY_KEY_FILE={folder}/authority.key TKDB_SEAL_KEYS_FILE={folder}/seal.key"
        f" TKDB_SIGNERS_FILE={folder}/{SIGNERS_FILE} TKDB_DB=tkdb.db tkdb serve"
    )


@command(app)
def public(output: Output, file: SecretFile = None, name: NameOption = None) -> None:
    """Show the public form of a secret key.

    For an authority's key, it is NAME=tkdbpub_…, which clients need.

    \b
    $ tkdb keys public --name tkdb.example < ../keys/authority.key
    tkdb.example=tkdbpub_j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF84MRDEv
    """
    from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
    from tkdb.journal import seal

    text = inputs.secret(file, VARIABLES[Kind.AUTHORITY], VARIABLES[Kind.SIGNER])
    if text.startswith(seal.PREFIX):
        raise UsageError("a sealing secret has no public form", hint="keep it secret")
    if text.startswith(SignerSecret.PREFIX):
        shown = SignerSecret.parse(text).public.text()
        output.result({"kind": "signer", "public": shown}, shown)
        return
    keys = tuple(AuthoritySecret.parse(part.strip()).public for part in text.split(","))
    name = name or inputs.setting("TKDB_NAME")
    if name is None:
        raise UsageError("the authority's name is missing", hint="add --name tkdb.example, or set TKDB_NAME")
    shown = AuthorityIdentity(name, keys).text()
    output.result({"kind": "authority", "public": shown}, shown)


@command(app)
def reseal(output: Output, request_id: RequestId = None) -> None:
    """Seal all records under the newest secret.

    Every record that is sealed under an older secret is sealed again, under the first of the authority's
    TKDB_SEAL_KEYS. Afterwards, you can remove the older secrets. This needs a signer that may reseal.

    \b
    $ tkdb keys reseal
    948 records left
    …
    resealed 1,204 records; none is left under an older secret
    """
    with connect() as client:
        count = client.reseal(
            lambda step: output.note(faint(f"{step.remaining:,} records left")), request_id=request_id
        )
    output.result(
        {"resealed": count, "remaining": 0}, good(f"resealed {count:,} records; none is left under an older secret")
    )
