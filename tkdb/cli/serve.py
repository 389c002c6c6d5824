"""``tkdb serve``: the authority, configured by the environment."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from tkdb.cli.output import Output

if TYPE_CHECKING:
    from tkdb.settings import Address


def serve(output: Output) -> None:
    """Serve, configured by the environment, until SIGTERM.

    docs/configuration.md lists the variables. With BUCKET_NAME and the AWS_… variables, this is one of several machines
    that share this bucket, which `tkdb init` has prepared. Without them, it is a single machine.

    Logs go to stderr, as JSON lines unless stderr is a terminal. The event "ready" names the address. With --json, the
    address and the authority's public identity go to stdout when the authority is ready.

    \b
    $ tkdb serve
    12:00:00 info ready address=0.0.0.0:8080 authority=tkdb.example region=syd machine=m-1a2b
    """
    from tkdb.channel.keys import AuthorityIdentity
    from tkdb.settings import Settings

    settings = Settings.parse(os.environ)
    from tkdb import logs  # imported after the settings, so that their errors appear at once
    from tkdb.server.run import run

    logs.configure(settings.log_level, sys.stderr)
    identity = AuthorityIdentity(settings.name, tuple(key.public for key in settings.authority_keys))

    def ready(address: Address) -> None:
        logs.event(
            logging.INFO,
            "ready",
            address=str(address),
            authority=settings.name,
            region=settings.region,
            machine=settings.machine,
        )
        output.result({"address": str(address), "name": settings.name, "authority": identity.text()})

    if "BUCKET_NAME" not in os.environ:
        run(settings, ready=ready)
        return
    from tkdb_replication.bucket.settings import Bucket
    from tkdb_replication.node.node import open_node

    bucket = Bucket.parse(os.environ)
    run(settings, ready=ready, open_service=lambda settings: open_node(settings, bucket))
