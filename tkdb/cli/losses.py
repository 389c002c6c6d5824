"""The loss that each wide revocation, deletion or restore causes, as far as the authority's lists show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tkdb.cli.consent import Loss
from tkdb.cli.formatting import distance, moment
from tkdb.cli.output import Cell, Rows, UsageError

if TYPE_CHECKING:
    from tkdb import api
    from tkdb_client import Client

SHOWN_ORGANIZATIONS: Final = 20


def of_time(client: Client, organization: str, subject: str | None, before_ms: int | None) -> Loss:
    """Return the loss if everything of an organization, or of one subject in it, before a time is revoked.

    Raises:
        UsageError: the signer may act for no organization of this name.
    """
    found = _organization(client, organization)
    whose = f"every token of {organization}" + ("" if subject is None else f" minted for {subject}")
    until = "now" if before_ms is None else moment(before_ms / 1000)
    return Loss(
        {"organization": organization, "subject": subject, "before_ms": before_ms, "keys": _kids(found)},
        (f"{whose} that was issued before {until} will be denied", Rows(_facts(found), indent=2)),
    )


def of_key(client: Client, kid: bytes) -> Loss:
    """Return the loss if a root key is retired."""
    for found in client.list_organizations():
        key = next((key for key in found.keys if key.kid == kid), None)
        if key is not None:
            facts = [("organization", found.name), ("generation", str(key.generation)), ("state", key.state)]
            if key.state == "signing":
                facts.append(("replaced", "yes: new tokens are minted under a new key"))
            return Loss(
                {"key": kid.hex(), "organization": found.name, "state": key.state},
                (f"every token under the key {kid.hex()} will be denied", Rows(facts, indent=2)),
            )
    raise UsageError(
        f"none of the listed organizations has the key {kid.hex()}",
        hint="see `tkdb org list`; to retire an old key that isn't listed, add --yes",
    )


def of_organization(client: Client, name: str) -> Loss:
    """Return the loss if an organization is deleted.

    Raises:
        UsageError: the signer may act for no organization of this name.
    """
    found = _organization(client, name)
    return Loss(
        {"organization": name, "keys": _kids(found)},
        (
            f"every token of {name} will be denied, and its name can never be used again",
            Rows(_facts(found), indent=2),
        ),
    )


def of_restore(client: Client, seq: int | None, at_ms: int | None) -> Loss:
    """Return the loss if the authority is restored to an entry, or to a time."""
    last = client.status().position
    title = f"every organization and key made after {f'entry {seq:,}' if at_ms is None else moment(at_ms / 1000)} ends"
    facts: list[tuple[Cell, Cell]] = [("last entry", f"{last:,}")]
    if seq is not None:
        facts.append(("undone", f"{max(0, last - seq):,} entries, except for their revocations"))
    made = [] if at_ms is None else [each.name for each in client.list_organizations() if each.created_ms > at_ms]
    if at_ms is not None:
        more = len(made) - SHOWN_ORGANIZATIONS
        names = ", ".join(made[:SHOWN_ORGANIZATIONS]) + (f", and {more:,} more" if more > 0 else "")
        facts.append(("deleted", names or "no organization"))
    document = {"seq": seq, "at_ms": at_ms, "last": last, "organizations": made}
    return Loss(document, (title, Rows(facts, indent=2)))


def _organization(client: Client, name: str) -> api.Organization:
    for found in client.list_organizations():
        if found.name == name:
            return found
    raise UsageError(f"the signer may act for no organization {name!a}", hint="see `tkdb org list`")


def _facts(organization: api.Organization) -> list[tuple[str, str]]:
    states = [key.state for key in organization.keys]
    keys = ", ".join(f"{states.count(state)} {state}" for state in ("signing", "verifying") if state in states)
    return [
        ("created", moment(organization.created_ms / 1000)),
        ("root keys", keys or "none"),
        ("lifetime", f"its tokens live at most {distance(organization.max_lifetime_s).removeprefix('in ')}"),
    ]


def _kids(organization: api.Organization) -> list[str]:
    return [key.kid.hex() for key in organization.keys if key.state != "retired"]
