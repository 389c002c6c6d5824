"""``tkdb flycast``: what flycast does, on hosts of one's own."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tkdb.cli import inputs
from tkdb.cli.command import command
from tkdb.cli.output import Output

app = typer.Typer(name="flycast", help="Reach the authority at one address on hosts of your own, nearest region first.")


@app.callback()
def _group() -> None:
    """Reach the authority at one address on hosts of your own, nearest region first."""


@command(app)
def config(
    output: Output,
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's file, in TOML; - is stdin.")],
    region: Annotated[str, typer.Option(metavar="REGION", help="The region of the hosts that it is for.")],
) -> None:
    """Print the configuration of Envoy for a region's hosts.

    An Envoy with it takes requests to the nearest region that is well, sends those that couldn't be sent to the next
    one, and follows fly-replay. docs/deploy-hosts.md shows a fleet's file.

    \b
    $ tkdb flycast config fleet.toml --region fra > envoy.json
    $ envoy --mode validate -c envoy.json
    """
    from tkdb_ops.flycast.envoy import configuration
    from tkdb_ops.flycast.fleet import Fleet

    made = configuration(Fleet.parse(inputs.document(fleet)).site(region))
    output.result(made, json.dumps(made, indent=2))
