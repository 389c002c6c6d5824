"""The module that makes ``python -m tkdb.cli`` the same as ``tkdb``."""

from tkdb.cli import main

main()
