"""``tkdb org``: create, configure, rotate, list and delete organizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tkdb.cli.command import command
from tkdb.cli.connect import connect
from tkdb.cli.consent import ConsentOptions, is_agreed
from tkdb.cli.inputs import duration
from tkdb.cli.options import Organization, RequestId
from tkdb.cli.output import Output, Rows, good

if TYPE_CHECKING:
    from tkdb import api

app = typer.Typer(name="org", help="Create, configure, rotate, list and delete organizations. Needs a signer's key.")

MaxLifetime = Annotated[
    str | None, typer.Option(metavar="DURATION", help="The maximum lifetime of its tokens. Default: 90d.")
]
NewLifetime = Annotated[str, typer.Option("--max-lifetime", metavar="DURATION", help="The maximum lifetime.")]


@command(app)
def create(
    output: Output, organization: Organization, max_lifetime: MaxLifetime = None, request_id: RequestId = None
) -> None:
    """Create an organization, with its first root key.

    \b
    $ tkdb org create acme --max-lifetime 30d
    created acme
      KEY                               GEN  STATE    UNTIL
      9f86d081884c7d659a2feaa0c55ad015  1    signing
    """
    max_lifetime_s = None if max_lifetime is None else duration(max_lifetime)
    with connect() as client:
        made = client.create_organization(organization, max_lifetime_s=max_lifetime_s, request_id=request_id)
    _show(output, "created", made)


@command(app)
def configure(
    output: Output, organization: Organization, max_lifetime: NewLifetime, request_id: RequestId = None
) -> None:
    """Change the maximum lifetime of tokens.

    It applies to tokens minted from now on.

    \b
    $ tkdb org configure acme --max-lifetime 7d
    configured acme
    """
    max_lifetime_s = duration(max_lifetime)
    with connect() as client:
        changed = client.configure_organization(organization, max_lifetime_s=max_lifetime_s, request_id=request_id)
    _show(output, "configured", changed)


@command(app)
def rotate(output: Output, organization: Organization, request_id: RequestId = None) -> None:
    """Mint under a new root key from now on.

    The old root key verifies until every token under it has expired.

    \b
    $ tkdb org rotate acme
    rotated acme
      KEY                               GEN  STATE      UNTIL
      2c26b46b68ffc68ff99b453c1d304134  2    signing
      9f86d081884c7d659a2feaa0c55ad015  1    verifying  2027-02-21 01:00:00 UTC
    """
    with connect() as client:
        changed = client.rotate_key(organization, request_id=request_id)
    _show(output, "rotated", changed)


@command(app, "list")
def list_(output: Output) -> None:
    """List the organizations that the signer may act for.

    \b
    $ tkdb org list
    NAME  LIFETIME  CREATED                  KEYS  SIGNING
    acme  90 d      2026-11-23 01:00:00 UTC  1     9f86d081884c7d659a2feaa0c55ad015
    """
    from tkdb.cli.formatting import moment

    with connect() as client:
        found = list(client.list_organizations())
    rows = [
        (
            each.name,
            _lifetime(each.max_lifetime_s),
            moment(each.created_ms / 1000),
            str(len(each.keys)),
            next((key.kid.hex() for key in each.keys if key.state == "signing"), ""),
        )
        for each in found
    ]
    header = ("NAME", "LIFETIME", "CREATED", "KEYS", "SIGNING")
    output.result({"organizations": [_document(each) for each in found]}, Rows(rows, header=header))


@command(app)
def delete(
    output: Output, organization: Organization, request_id: RequestId = None, *, consent: ConsentOptions
) -> None:
    """Delete an organization permanently.

    All of its tokens are revoked, and its name can never be used again. This shows what ends, and asks.

    \b
    $ tkdb org delete acme --yes
    deleted acme
    """
    from tkdb.cli import losses

    summary = f"this permanently revokes every token of {organization}"
    with connect() as client:
        if not is_agreed(output, consent, summary, lambda: losses.of_organization(client, organization)):
            return
        client.delete_organization(organization, request_id=request_id)
    output.result({"deleted": organization}, good(f"deleted {organization}"))


def _show(output: Output, what: str, organization: api.Organization) -> None:
    output.result(_document(organization), good(f"{what} {organization.name}"), _keys(organization.keys))


def _keys(keys: Sequence[api.Key]) -> Rows:
    from tkdb.cli.formatting import moment

    rows = [
        (key.kid.hex(), str(key.generation), key.state, "" if key.until_ms is None else moment(key.until_ms / 1000))
        for key in keys
    ]
    return Rows(rows, header=("KEY", "GEN", "STATE", "UNTIL"), indent=2)


def _document(organization: api.Organization) -> Any:
    from tkdb.dev.plain import write

    return write(organization)


def _lifetime(seconds: int) -> str:
    from tkdb.cli.formatting import distance

    return distance(seconds).removeprefix("in ") if seconds else "0 s"
