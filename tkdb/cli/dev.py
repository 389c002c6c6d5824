"""``tkdb dev``: an authority on one machine, in memory, for learning and for tests."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from tkdb.cli.output import Output, Part, UsageError, bad, faint

if TYPE_CHECKING:
    from tkdb.authority.service import Authority
    from tkdb.channel.keys import SignerSecret
    from tkdb.settings import Address, Settings

ORGANIZATION: Final = "dev"
LIFETIME_S: Final = 7 * 86_400

Bind = Annotated[str, typer.Option(metavar="ADDRESS", help="The address and port, or a port; 0 is any free port.")]
AuthorityName = Annotated[str, typer.Option(metavar="NAME", help="The authority's name.")]


def dev(output: Output, bind: Bind = "127.0.0.1:0", name: AuthorityName = "tkdb.dev") -> None:
    """Run an authority in memory, for learning and for tests.

    It needs no configuration, makes its keys itself, keeps nothing, and is never for production. It prints the
    variables to export, with a first token. Its methods also answer plain JSON: see the page at its URL.

    \b
    $ tkdb dev
    export TKDB_URL=http://127.0.0.1:40123
    export TKDB_AUTHORITY=tkdb.dev=tkdbpub_…
    export TKDB_SIGNER=tkdbsigner_…
    export TKDB_TOKEN=tkdb_…
    """
    from tkdb import logs
    from tkdb.bootstrap import open_authority
    from tkdb.channel.keys import AuthorityIdentity, SignerSecret
    from tkdb.dev.routes import routes
    from tkdb.server.run import run

    signer = SignerSecret.generate(os.urandom)
    settings = _settings(bind, name, signer)
    tokens: list[str] = []

    async def opening(settings: Settings) -> Authority:
        authority = await open_authority(settings)
        tokens.append(await _first_token(authority, settings, signer))
        return authority

    def ready(address: Address) -> None:
        document = {
            "url": f"http://{address}",
            "authority": AuthorityIdentity(name, (settings.authority_keys[0].public,)).text(),
            "signer": signer.text(),
            "token": tokens[0],
        }
        output.result(document, *(f"export TKDB_{what.upper()}={value}" for what, value in document.items()))
        output.note(*_warning(document["url"]))

    logs.configure("warning", sys.stderr)
    run(settings, open_service=opening, ready=ready, extra_routes=routes)


def _settings(bind: str, name: str, signer: SignerSecret) -> Settings:
    from tkdb.channel.keys import AuthoritySecret, parse_name
    from tkdb.journal.seal import SealKey, SealKeys
    from tkdb.settings import Address, Settings
    from tkdb.signers import ALL, Permission, Signer, Signers

    address = Address.parse(f"127.0.0.1:{bind}" if bind.isdigit() else bind)
    if not address.loopback:
        raise UsageError(
            f"tkdb dev listens on loopback only, and {address} is not loopback",
            hint="use `tkdb serve` to let others reach it",
        )
    return Settings(
        name=parse_name(name),
        authority_keys=(AuthoritySecret.generate(os.urandom),),
        seal_keys=SealKeys([SealKey(os.urandom(32))]),
        signers=Signers([Signer("dev", signer.public, frozenset({ALL}), frozenset(get_args(Permission)))]),
        database=":memory:",
        bind=address,
        drain_ms=0,
    )


async def _first_token(authority: Authority, settings: Settings, secret: SignerSecret) -> str:
    """Create the organization ``dev`` and mint a token of it, with the signed requests that a signer would send."""
    from tkdb import api
    from tkdb.channel.envelope import REQUEST_ID_BYTES, prologue, signed_bytes
    from tkdb.ports import Caller

    async def ask(path: str, call: api.Call[api.R]) -> api.R:
        request_id, now_ms, body = os.urandom(REQUEST_ID_BYTES), time.time_ns() // 1_000_000, api.encode(call)
        signature = secret.sign(signed_bytes(prologue(path, settings.name), now_ms, request_id, body))
        signer = settings.signers.by_key(secret.public)
        return await authority.answer(call, Caller(signer, path, request_id, now_ms, signature, body))  # type: ignore[return-value]  # each call has its result

    await ask(api.WRITE, api.CreateOrganization(name=ORGANIZATION))
    return (await ask(api.SIGN, api.Mint(organization=ORGANIZATION, expires_in_s=LIFETIME_S))).token


def _warning(url: str) -> list[Part]:
    return [
        bad(
            "NOT FOR PRODUCTION: nothing is kept, the keys are on this terminal,"
            " and anyone who reaches the port may do anything"
        ),
        faint(f"plain JSON and its description: {url} · in another terminal: export the above, then `tkdb status`"),
        faint("Ctrl-C stops it"),
    ]
