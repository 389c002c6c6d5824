"""Options that several commands share, as dataclasses with one field for each option.

>>> CaveatOptions(action="r", resource=["app:shop=r"]).restrictions()["resource"]
{'app': {'shop': 'r'}}
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from tkdb.cli.inputs import duration, instant, resources
from tkdb.cli.output import UsageError
from tkdb.errors import InvalidCaveat, UnknownCaveat

if TYPE_CHECKING:
    from tkdb.macaroon.access import Access, AnyId, Policy
    from tkdb.macaroon.caveats import AnyCaveat
    from tkdb.macaroon.restrictions import Restrictions

TokenFile = Annotated[
    str | None,
    typer.Option("--token-file", metavar="PATH", help="The file with the token; - is stdin. Never an argument."),
]
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        metavar="HEX",
        help="Repeat a write whose outcome was unknown: 32 hex digits, from its error. Default: a new id.",
    ),
]
Organization = Annotated[str, typer.Argument(help="The organization's name.", show_default=False)]


@dataclass(frozen=True, slots=True)
class CaveatOptions:
    """The restrictions of a token."""

    action: Annotated[str | None, typer.Option(help="Actions out of rwcdC: read write create delete control.")] = None
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:ID=ACTIONS", help="A resource; repeat it for more. The ID * is any."),
    ] = None
    prefix: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:PREFIX=ACTIONS", help="Resources by a prefix of their id; repeat it for more."),
    ] = None
    otherwise: Annotated[
        str | None,
        typer.Option(metavar="ACTIONS", help="Actions on anything but the kinds of --resource and --prefix."),
    ] = None
    audience: Annotated[str | None, typer.Option(help="The service that may accept it.")] = None
    ip: Annotated[list[str] | None, typer.Option(metavar="CIDR", help="A client network; repeat it for more.")] = None
    method: Annotated[str | None, typer.Option(help="The HTTP method.")] = None
    path: Annotated[str | None, typer.Option(help="A path glob, such as /v1/apps/*.")] = None
    caveat: Annotated[
        list[str] | None,
        typer.Option(metavar="JSON", help='Any caveat, such as \'["x:plan","pro"]\'; repeat it for more.'),
    ] = None
    expires_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="The token's lifetime: 60s, 5m, 1h, 7d.")
    ] = None

    def restrictions(self) -> Restrictions:
        """Return the restrictions, as ``mint`` and ``narrow`` take them.

        Raises:
            UsageError: an option can't be read.
        """
        given: Restrictions = {
            "action": self.action,
            "resource": resources(self.resource) if self.resource else None,
            "prefix": resources(self.prefix) if self.prefix else None,
            "otherwise": self.otherwise,
            "audience": self.audience,
            "ip": self.ip or None,  # an option that isn't given is an empty list
            "method": self.method,
            "path": self.path,
        }
        return given

    @property
    def caveats(self) -> list[AnyCaveat]:
        """The caveats that are given as JSON.

        Raises:
            InvalidCaveat: one can't be read.
        """
        return [_caveat(text) for text in self.caveat or ()]

    @property
    def expires_in_s(self) -> int | None:
        """The requested lifetime of the token, in seconds."""
        return None if self.expires_in is None else duration(self.expires_in)

    @property
    def given(self) -> bool:
        """True if any option was given."""
        named = any(value is not None for value in self.restrictions().values())
        return named or bool(self.caveat) or self.expires_in is not None


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """The access that a request attempts."""

    action: Annotated[str | None, typer.Option(help="The attempted action, out of rwcdC.")] = None
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=ID", help="The resource; repeat it for more. The ID * is all of the kind."),
    ] = None
    audience: Annotated[str | None, typer.Option(help="The service that gets the request.")] = None
    method: Annotated[str | None, typer.Option(help="The HTTP method.")] = None
    path: Annotated[str | None, typer.Option(help="The path, as received.")] = None
    ip: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The client's address.")] = None
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The time: 2026-01-31T12:00:00Z, or Unix seconds. Default: now.")
    ] = None

    @property
    def given(self) -> bool:
        """True if any option was given."""
        texts = (self.action, self.audience, self.method, self.path, self.ip, self.at)
        return bool(self.resource) or any(text is not None for text in texts)

    def access(self, organization: str | None = None) -> Access:
        """Return the access to data of ``organization``; None: tokens of every organization are welcome.

        Raises:
            UsageError: an option can't be read.
        """
        from tkdb.macaroon.access import ANY_ORGANIZATION, Access

        return Access(
            organization=ANY_ORGANIZATION if organization is None else organization,
            action=self.action,
            resource=dict(map(_touched, self.resource or ())),
            method=self.method,
            path=self.path,
            ip=self.ip,
            now_s=time.time() if self.at is None else instant(self.at),
        )

    def policy(self) -> Policy:
        """Return the policy for clearing: this machine's clock, and the audience."""
        from tkdb.macaroon.access import Policy

        return Policy(clock=time.time, audience=self.audience)

    def words(self) -> str:
        """Return the access as text for people."""
        pairs: list[tuple[str, str | None]] = [
            ("action", self.action),
            *(("resource", text) for text in self.resource or ()),
            ("audience", self.audience),
            ("method", self.method),
            ("path", self.path),
            ("ip", self.ip),
            ("at", self.at),
        ]
        return " · ".join(f"{name} {value}" for name, value in pairs if value is not None) or "nothing"


def _touched(text: str) -> tuple[str, str | AnyId]:
    from tkdb.macaroon.access import ANY

    kind, equals, name = text.partition("=")
    if not (kind and equals and name):
        raise UsageError(f"{text[:80]!a} is not KIND=ID", hint="write app=shop, or app=* for every app")
    return kind, ANY if name == "*" else name


def _caveat(text: str) -> AnyCaveat:
    from tkdb.macaroon.caveats import decode

    try:
        return decode(text.encode())
    except UnknownCaveat as error:
        raise InvalidCaveat(
            f"--caveat {text[:80]!a}: {error.message}", hint='write its JSON without spaces, such as ["x:plan","pro"]'
        ) from None
