"""The page of ``tkdb dev``: the methods, each with a curl line. One file, no scripts."""

from __future__ import annotations

from html import escape
from typing import Any, Final

import msgspec

from tkdb.server.methods import BY_NAME, Kind, name_of, summary_of

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "verify": {"bundles": ["tkdb_…"]},
    "revocations": {"kids": ["00" * 16], "after": 0, "wait_ms": 0},
    "revoke-own": {"token": "tkdb_…"},
    "mint": {"organization": "acme", "caveats": [["act", "r"]], "expires_in_s": 600},
    "organization.create": {"name": "acme"},
    "organization.configure": {"name": "acme", "max_lifetime_s": 86_400},
    "organization.rotate": {"name": "acme"},
    "organization.delete": {"name": "acme"},
    "revoke": {"targets": [{"type": "before", "organization": "acme"}]},
    "restore": {"seq": 2},
    "hand-over": {"machine": "m-1a2b"},
}
"""A body for each method that needs one."""

_STYLE: Final = """
:root { color-scheme: light dark; --line: light-dark(#d7dbe0, #343a41); --box: light-dark(#f5f6f8, #1c2025) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2.5rem auto; padding: 0 1rem;
       color: light-dark(#1b1f24, #e3e6ea); background: light-dark(#fff, #14171a) }
h1 { font-size: 1.5rem } h2 { font-size: 1rem; margin: 2.5rem 0 0; border-bottom: 1px solid var(--line) }
h3 { font: 600 1rem ui-monospace, monospace; margin: 1.5rem 0 0 } p { margin: .25rem 0 }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
      overflow-x: auto }
code, pre { font-family: ui-monospace, monospace; font-size: .875rem } a { color: light-dark(#0b57b0, #7db4f5) }
"""


def render(host: str) -> str:
    """Return the page as HTML. ``host`` is the host and port in the curl lines."""
    parts, shown = [], ""
    for path, kind in BY_NAME.values():
        if path != shown:
            parts.append(f"<h2>{path}</h2>")
            shown = path
        parts.append(_section(kind, host))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>tkdb dev</title>
<style>{_STYLE}</style></head><body>
<h1>tkdb dev</h1>
<p>The authority's methods as plain JSON, on this machine only. Anyone who can reach this page may do anything. In
production, Noise seals the same methods, and only signers can mint. <a href="/openapi.json">openapi.json</a> describes
each field.</p>
<p>Ids are 32 hex digits. A caveat is a JSON array. The response for a denied token contains the reason.</p>
{"".join(parts)}
</body></html>
"""


def _section(kind: Kind, host: str) -> str:
    method = name_of(kind)
    text = escape(summary_of(kind))
    body = msgspec.json.encode(EXAMPLES.get(method, {})).decode()
    command = f"curl -s {host}/dev/{method} -d '{body}'"
    return f"<h3>{method}</h3>\n<p>{text}</p>\n<pre>{escape(command)}</pre>\n"
