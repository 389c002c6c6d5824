"""Options that several commands share, as dataclasses with one field for each option.

>>> CaveatOptions(action="r", resource=["app:shop=r"]).restrictions(now_s=0)
[Act(actions='r'), Res(kind='app', ids=mappingproxy({'shop': 'r'}))]
"""

from __future__ import annotations

import math
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

TokenFile = Annotated[
    str | None,
    typer.Option("--token-file", metavar="PATH", help="The file with the token; - is stdin. Never an argument."),
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
    audience: Annotated[str | None, typer.Option(help="The service that may accept it.")] = None
    method: Annotated[str | None, typer.Option(help="The HTTP method.")] = None
    path: Annotated[str | None, typer.Option(help="A path glob, such as /v1/apps/*.")] = None
    ip: Annotated[list[str] | None, typer.Option(metavar="CIDR", help="A client network; repeat it for more.")] = None
    caveat: Annotated[
        list[str] | None,
        typer.Option(metavar="JSON", help='Any caveat, such as \'["x:plan","pro"]\'; repeat it for more.'),
    ] = None
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", metavar="DURATION", help="The token's lifetime: 60s, 5m, 1h, 7d.")
    ] = None

    def restrictions(self, *, now_s: float | None) -> list[AnyCaveat]:
        """Return the caveats, the stable ones first. Without ``now_s``, the authority applies ``--expires-in``.

        Raises:
            InvalidCaveat, UsageError: an option isn't a valid caveat.
        """
        from tkdb.macaroon.caveats import Act, Aud, Exp, Ip, Req, Res

        caveats: list[AnyCaveat] = []
        if self.audience is not None:
            caveats.append(Aud(self.audience))
        if self.action is not None:
            caveats.append(Act(self.action))
        caveats += [Res(kind, ids) for kind, ids in resources(self.resource or ()).items()]
        if self.ip:
            caveats.append(Ip(tuple(self.ip)))
        if self.method is not None or self.path is not None:
            caveats.append(Req((self.method or "*",), (self.path or "/**",)))
        caveats += [_caveat(text) for text in self.caveat or ()]
        if now_s is not None and self.lifetime_s is not None:
            caveats.append(Exp(math.ceil(now_s + self.lifetime_s)))
        return caveats

    @property
    def lifetime_s(self) -> int | None:
        """The requested lifetime of the token, in seconds."""
        return None if self.expires_in is None else duration(self.expires_in)


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
        return any((self.action, self.resource, self.audience, self.method, self.path, self.ip, self.at))

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
        return " · ".join(f"{name} {value}" for name, value in pairs if value) or "nothing"


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
