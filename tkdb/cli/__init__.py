"""The `tkdb` command, with one module for each command.

It is at the top of the import order. A command imports what it needs inside its function, so that every command starts
quickly.

``app``             The tree of commands, and its only entry point
``audit``           ``tkdb audit``: the check that the journal is complete and unaltered, and that the tables match it
``cluster``         Helpers for commands on a cluster
``command``         The decorator of every command
``connect``         The client through which commands call the authority
``consent``         The operator's consent to a command that permanently ends something
``dev``             ``tkdb dev``: an authority on one machine, in memory, for learning and for tests
``doctor``          ``tkdb doctor``: the checks that a deployment is isolated and safe
``drill``           ``tkdb drill``: faults in a multi-region authority under load, and the check of the result
``drill_progress``  The run of a drill at a terminal: its targets, its progress, and its result
``dumps``           Dumps of this process's memory: off, before a command reads a secret
``flycast``         ``tkdb flycast``: the function of Fly's flycast, on your own hosts
``formatting``      Tokens in words: caveats, times, lineages
``gc``              ``tkdb gc``: the deletion of objects in the bucket that nothing needs any more
``init``            ``tkdb init``: the making of a cluster, in a new bucket
``inputs``          The inputs of commands: secrets (never from arguments), durations, times and resources
``keys``            ``tkdb keys``: the generation of secrets, their public forms, and the resealing of records
``lab``             ``tkdb lab``: a whole multi-region authority on this machine, for experiments with faults
``losses``          The loss that each wide revocation, deletion or restore causes
``machines``        The machines of one authority, each at its own URL
``options``         Options that several commands share, as dataclasses with one field for each option
``organizations``   ``tkdb org``: create, configure, rotate, list and delete organizations
``output``          The output of a command
``promote``         ``tkdb promote``: the move of the primary, by a handover or without asking the primary
``recover``         ``tkdb recover``: the recovery of a cluster that has lost its head, or the base in its head
``regions``         ``tkdb regions``: the distance of each region from here, and the region that serves this caller
``restore``         ``tkdb restore``: the recovery to a point in time
``serve``           ``tkdb serve``: the authority, configured by the environment
``status``          ``tkdb status``: the machines that answer, the age of their data, and the primary
``survey_report``   A survey in words: the findings, the possible loss, and the next steps
``token``           ``tkdb token``: the commands that mint, narrow, verify, inspect, explain and revoke tokens
``token_report``    The display of a token: never its signature, and always a mark if the token is unverified
"""

import sys
from importlib.util import find_spec

from tkdb.extras import install_hint


def main() -> None:
    """Run the command line, and exit."""
    if find_spec("typer") is None or find_spec("rich") is None:
        sys.stderr.write(f"error: the command line needs typer and rich\ntry: {install_hint('cli')}\n")
        sys.exit(2)
    from tkdb.cli.app import run

    sys.exit(run(sys.argv[1:]))
