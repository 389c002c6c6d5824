"""The ``console`` blocks of docs/cli.md: what is typed, what is answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@dataclass(frozen=True)
class Shown:
    """One command as it is shown."""

    section: str
    command: str
    output: str
    code: int


def read(text: str) -> Iterator[Shown]:
    """Yield the commands of all console blocks, in order."""
    section = ""
    for part in re.split(r"^(## [^\n]*$|```console\n.*?^```$)", text, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("## "):
            section = part.removeprefix("## ")
        elif part.startswith("```console"):
            body = part.removeprefix("```console\n").removesuffix("```")
            for typed in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, output = typed.partition("\n")
                ended = re.search(r"^exit (\d)\n", output, re.MULTILINE)
                shown = output[: ended.start()] if ended else output
                yield Shown(section, command, shown.rstrip("\n"), int(ended[1]) if ended else 0)


def alike(output: str) -> str:
    """Return an output with all that differs from run to run made equal."""
    for pattern, instead in (
        (r"tkdb(pub|signerpub|signer|auth|seal)?_[\w-]+…?", r"tkdb\1_…"),
        (r"\b[0-9a-f]{12,}…?", "<hex>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "<time>"),
        (r"\d+(\.\d+)? ms\b|\b(in )?\d+ (s|min|h|d)( ago)?\b|\bnow\b", "<span>"),
        (r'(_ms|_s)":\d+', r'\1":0'),
        (r"\d+", "0"),
        (r" +", " "),
    ):
        output = re.sub(pattern, instead, output)
    return output
