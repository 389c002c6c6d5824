"""``tkdb token``: the commands that mint, narrow, verify, inspect, explain and revoke tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tkdb.cli import inputs
from tkdb.cli.command import command
from tkdb.cli.connect import connect
from tkdb.cli.consent import ConsentOptions, is_agreed
from tkdb.cli.options import AccessOptions, CaveatOptions, Organization, RequestId, TokenFile
from tkdb.cli.output import Output, Rows, UsageError, faint, good
from tkdb.errors import Denied

if TYPE_CHECKING:
    from tkdb.cli.token_report import Trial
    from tkdb.macaroon.token import Macaroon
    from tkdb_client import Client, Verified

app = typer.Typer(name="token", help="Mint, narrow, verify, inspect, explain and revoke tokens.")

Owner = Annotated[
    str | None, typer.Option("--organization", help="The organization whose data the request touches. Default: any.")
]
Subject = Annotated[str | None, typer.Option(help="The token's subject: a fact that only the authority may state.")]


@command(app)
def mint(output: Output, organization: Organization, caveats: CaveatOptions, subject: Subject = None) -> None:
    """Mint a token, and print it.

    The token is the secret to hand out. This needs a signer's key (TKDB_SIGNER).

    \b
    $ tkdb token mint acme --action rw --resource app:shop=rw --expires-in 1h
    tkdb_AgELdGtkYi5leGFtcGxl…
    """
    given, further, lifetime_s = caveats.restrictions(), caveats.caveats, caveats.expires_in_s
    with connect() as client:
        token = client.mint(organization, *further, subject=subject, expires_in_s=lifetime_s, **given)
    _print(output, token)


@command(app)
def narrow(output: Output, caveats: CaveatOptions, token_file: TokenFile = None) -> None:
    """Restrict a token further, and print the result. This works offline, and needs no key.

    \b
    $ tkdb token narrow < token.txt --action r --expires-in 5m
    tkdb_AgELdGtkYi5leGFtcGxl…
    """
    from tkdb.cli.token_report import root_of
    from tkdb.macaroon.caveats import Exp

    if not caveats.given:
        raise UsageError("no restriction is given", hint="add one, such as --action r or --expires-in 5m")
    given, further, lifetime_s = caveats.restrictions(), caveats.caveats, caveats.expires_in_s
    # The exact second, because no other call repeats this one.
    expiry = [] if lifetime_s is None else [Exp(math.ceil(time.time() + lifetime_s))]
    _print(output, root_of(inputs.token(token_file)).narrow(*further, *expiry, **given))


@command(app)
def verify(output: Output, access: AccessOptions, owner: Owner = None, token_file: TokenFile = None) -> None:
    """Let the authority verify a token, and clear its caveats.

    The caveats are cleared only if you give an access (--action and so on). With --organization, a token of another
    organization is denied. Exit 1: denied.

    \b
    $ tkdb token verify < token.txt --action w --resource app=shop
    denied: caveat unmet
      caveat 3 of 4  act r   it allows r; the request is w
      token          acme · lineage 01931f4c1a2b… · minted 3 min ago · expires in 57 min
      try            ask for a token that allows it, or attempt less
    """
    from tkdb.cli import token_report
    from tkdb.macaroon.clearing import require_organization

    now_s = time.time()
    attempted = access.access(owner)
    presented = inputs.token(token_file)
    verified: Verified | None = None
    try:
        with connect(access.policy()) as client:
            verified = client.verify(presented)
        if access.given:
            verified.clear(attempted)
        elif owner is not None:
            require_organization(verified.organization, attempted, access.policy())
    except Denied as denied:
        root, organization = _known(presented, verified)
        why = _why(verified, denied, access)
        output.result(
            token_report.verdict(root, organization, denied, cleared=False, now_s=now_s),
            *token_report.denial(denied, root, organization, why, now_s),
        )
        raise typer.Exit(1) from None
    document = token_report.verdict(verified.macaroon, verified.organization, None, cleared=access.given, now_s=now_s)
    output.result(document, *_accepted(verified, access))


def _known(presented: str, verified: Verified | None) -> tuple[Macaroon | None, str | None]:
    """Return the readable root of a denied token, and the organization if the chain is valid."""
    from tkdb.cli.token_report import root_of

    if verified is not None:
        return verified.macaroon, verified.organization
    try:
        return root_of(presented), None
    except Denied:
        return None, None


def _why(verified: Verified | None, denied: Denied, access: AccessOptions) -> str:
    from tkdb.macaroon.clearing import explain

    if verified is None or denied.caveat is None:
        return denied.message
    return explain(verified.caveats, access.access(), access.policy())[denied.caveat - 1] or denied.message


def _accepted(verified: Verified, access: AccessOptions) -> Sequence[Any]:
    from tkdb.cli.token_report import summary, trials

    now_s = time.time()
    token = ("token", summary(verified.macaroon, verified.organization, now_s))
    if access.given:
        return good("verified and cleared"), Rows([token, ("request", access.words())], indent=2)
    hint = ("try", "give the access that the request attempts: --action r --resource app=shop")
    untried = trials(verified.macaroon, [None] * len(verified.caveats), now_s)
    shown = Rows([row[1:4] for row in untried.rows], header=untried.header[1:4], indent=2)
    return good("verified; its caveats were not cleared"), Rows([token, hint], indent=2), shown


@command(app)
def inspect(output: Output, token_file: TokenFile = None) -> None:
    """Show the content of any token, without keys or network. Nothing is verified.

    \b
    $ tkdb token inspect < token.txt
    authority  tkdb.example
    kind       narrowed: 1 of its caveats were added by holders
    …
    #  WRITTEN BY  TAG  MEANS
    1  authority   exp  ends 2026-11-23 02:14:07 UTC (in 57 min)
    2  holder      act  allows read
    """
    from tkdb.cli.token_report import Shown

    now_s = time.time()
    macaroons = Shown.parse(inputs.token(token_file))
    parts: list[Any] = []
    for macaroon in macaroons:
        parts += ["", macaroon.rows(now_s), macaroon.caveats(now_s)]
    output.result({"macaroons": [macaroon.document(now_s) for macaroon in macaroons]}, *parts[1:])
    output.note(faint("the token was only read; nothing was verified"))


@command(app)
def explain(output: Output, access: AccessOptions, token_file: TokenFile = None) -> None:
    """Replay a decision, caveat by caveat.

    This needs neither keys nor network. Exit 1: the access would be denied.

    It doesn't verify the chain, and doesn't look up revocations: only the authority can do that.

    \b
    $ tkdb token explain < token.txt --action w
       #  TAG  MEANS                                     WHY NOT
    ✓  1  exp  ends 2026-11-23 02:14:07 UTC (in 57 min)
    ✗  2  act  allows read                               it allows r; the request is w
    would be denied: 1 of 2 caveats is not met
    """
    from tkdb.cli import token_report

    now_s = time.time()
    root = token_report.root_of(inputs.token(token_file))
    trials = _trials(root, access)
    against = [why for why in trials if why is not None]
    count = len(trials)
    conclusion = (
        f"would be denied: {len(against)} of {count} caveats {'is' if len(against) == 1 else 'are'} not met"
        if against
        else f"would be cleared: all of {count} caveats are met"
    )
    document = {
        "cleared": not against,
        "verified": False,
        "caveats": token_report.trial_documents(root, trials, now_s),
    }
    output.result(document, token_report.trials(root, trials, now_s), conclusion)
    output.note(faint("the chain was not verified, and revocations were not looked up: `tkdb token verify` does both"))
    if against:
        raise typer.Exit(1)


def _trials(root: Macaroon, access: AccessOptions) -> list[Trial]:
    from tkdb.cli.token_report import misplaced
    from tkdb.macaroon import caveats, clearing

    attempted, policy = access.access(), access.policy()
    trials: list[Trial] = []
    for index, packet in enumerate(root.packets, 1):
        why = misplaced(root, index, packet)
        if why is None and isinstance(packet, bytes):
            why = clearing.explain([caveats.decode(packet)], attempted, policy)[0]
        trials.append(why)
    return trials


@command(app)
def revoke(
    output: Output,
    token_file: TokenFile = None,
    lineage: Annotated[str | None, typer.Option(metavar="HEX", help="A lineage, instead of a token.")] = None,
    branch: Annotated[str | None, typer.Option(metavar="HEX", help="With --lineage: only this branch.")] = None,
    key: Annotated[str | None, typer.Option(metavar="HEX", help="Every token under a root key.")] = None,
    organization: Annotated[str | None, typer.Option(help="All tokens of an organization issued so far.")] = None,
    subject: Annotated[str | None, typer.Option(help="With --organization: only this subject's tokens.")] = None,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --organization: only before this time.")
    ] = None,
    request_id: RequestId = None,
    *,
    consent: ConsentOptions,
) -> None:
    """Revoke a token and all of its descendants.

    The revocation is durable when this returns. With a signer's key, a token as it was minted is revoked with its whole
    lineage. Without a signer's key, possession is enough: this revokes exactly the given token and its descendants.

    With --key or --organization, this shows which tokens will be denied, and asks.

    \b
    $ tkdb token revoke < token.txt
    revoked
    $ tkdb token revoke --organization acme --subject kim --yes
    revoked
    """
    target = _target(lineage, branch, key, organization, subject, before)
    presented = inputs.token(token_file) if target is None else None
    with connect() as client:
        if not _is_agreed(output, consent, client, target):
            return
        if presented is not None:
            already = client.revoke(presented, request_id=request_id)
        else:
            already = client.revoke_many([target], request_id=request_id)
    output.result({"revoked": True, "already": already}, good("already revoked" if already else "revoked"))


def _is_agreed(output: Output, consent: ConsentOptions, client: Client, target: Any) -> bool:
    """Return True if the operator agrees to the revocation. A token, a lineage or a branch needs no consent."""
    from tkdb import api
    from tkdb.cli import losses

    if isinstance(target, api.Before):
        whose = target.organization + ("" if target.subject is None else f" that was minted for {target.subject}")
        when = "" if target.before_ms is None else ", if it was issued before the given time"
        return is_agreed(
            output,
            consent,
            f"this permanently revokes every token of {whose}{when}",
            lambda: losses.of_time(client, target.organization, target.subject, target.before_ms),
        )
    if isinstance(target, api.RetireKey):
        summary = f"this permanently revokes every token under the key {target.kid.hex()}"
        return is_agreed(output, consent, summary, lambda: losses.of_key(client, target.kid))
    if consent.dry_run:
        raise UsageError("--dry-run goes with --key or --organization", hint="see `tkdb token inspect` for a token")
    return True


def _target(
    lineage: str | None,
    branch: str | None,
    key: str | None,
    organization: str | None,
    subject: str | None,
    before: str | None,
) -> Any:
    """Return the target that the options name, or None if they name no target, so that a token is revoked."""
    from tkdb import api

    if sum(option is not None for option in (lineage, key, organization)) > 1:
        raise UsageError("more than one of --lineage, --key and --organization is given", hint="give one of them")
    if (branch is not None and lineage is None) or ((subject or before) is not None and organization is None):
        raise UsageError("--branch goes with --lineage; --subject and --before go with --organization")
    if lineage is not None:
        both = inputs.identifier(lineage, 32, "a lineage")
        kid, nonce = both[:16], both[16:]
        if branch is None:
            return api.Lineage(kid=kid, nonce=nonce)
        return api.Branch(kid=kid, nonce=nonce, branch=inputs.identifier(branch, 16, "a branch"))
    if key is not None:
        return api.RetireKey(kid=inputs.identifier(key, 16, "a key"))
    if organization is not None:
        before_ms = None if before is None else int(inputs.instant(before) * 1000)
        return api.Before(organization=organization, before_ms=before_ms, subject=subject)
    return None


def _print(output: Output, token: Macaroon) -> None:
    from tkdb.cli.token_report import expiry

    document = {
        "token": token.text,
        "lineage": token.lineage.hex(),
        "branch": token.branch.hex(),
        "minted_ms": token.issued_ms,
        "expires_s": expiry(token),
    }
    output.result(document, token.text)
