"""``tkdb flycast``: the function of Fly's flycast, on your own hosts."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tkdb.cli import inputs
from tkdb.cli.command import command
from tkdb.cli.output import Output

app = typer.Typer(name="flycast", help="Reach the authority at one address on your own hosts, nearest region first.")


@app.callback()
def _group() -> None:
    """Reach the authority at one address on your own hosts, nearest region first."""


@command(app)
def config(
    output: Output,
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's file, in TOML; - is stdin.")],
    region: Annotated[str, typer.Option(metavar="REGION", help="The region of the hosts.")],
) -> None:
    """Print the configuration of Envoy for a region's hosts.

    With it, Envoy sends requests to the nearest healthy region, tries the next region if a request couldn't be sent,
    and follows fly-replay. docs/deploy-hosts.md shows the file of a fleet.

    \b
    $ tkdb flycast config fleet.toml --region fra > envoy.json
    $ envoy --mode validate -c envoy.json
    """
    from tkdb_ops.flycast.envoy import configuration
    from tkdb_ops.flycast.fleet import Fleet

    made = configuration(Fleet.parse(inputs.document(fleet)).site(region))
    output.result(made, json.dumps(made, indent=2))
