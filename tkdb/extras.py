"""The hint that installs an optional part of tkdb.

tkdb isn't published: its name on PyPI isn't this project's. So no hint may send anyone to an index for it.

>>> install_hint("lab")
"run `pip install '.[lab]'` in a checkout of tkdb"
"""

from __future__ import annotations


def install_hint(extra: str) -> str:
    """Return the hint for an error about a missing package of the extra ``extra``."""
    return f"run `pip install '.[{extra}]'` in a checkout of tkdb"
