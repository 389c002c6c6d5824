"""``python -m tkdb.cli`` is ``tkdb``."""

from tkdb.cli import main

main()
