"""The ``tkdb`` command.

::

    $ tkdb dev                                              # runs an authority in memory, prints its variables
    $ tkdb token mint acme --act rw --res app:shop=rw       # prints the token
    $ tkdb token verify < token.txt --action r --resource app=shop

Data goes to stdout, messages to stderr. Exit codes: 0 yes, 1 denied or invalid, 2 usage, 3 unavailable (try again).
"""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line, and exit."""
    if find_spec("typer") is None or find_spec("rich") is None:
        sys.stderr.write("error: the command line needs typer and rich\ntry: pip install 'tkdb[server]'\n")
        sys.exit(2)
    from tkdb.cli.app import run

    sys.exit(run(sys.argv[1:]))
