"""The ``console`` blocks of docs/cli.md: each command, and its output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@dataclass(frozen=True)
class ShownCommand:
    """One documented command."""

    section: str
    command: str
    output: str
    code: int


def read(text: str) -> Iterator[ShownCommand]:
    """Yield the commands of all console blocks, in order."""
    section = ""
    for part in re.split(r"^(## [^\n]*$|```console\n.*?^```$)", text, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("## "):
            section = part.removeprefix("## ")
        elif part.startswith("```console"):
            body = part.removeprefix("```console\n").removesuffix("```")
            for block in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, output = block.partition("\n")
                exit_line = re.search(r"^exit (\d)\n", output, re.MULTILINE)
                shown = output[: exit_line.start()] if exit_line else output
                yield ShownCommand(section, command, shown.rstrip("\n"), int(exit_line[1]) if exit_line else 0)


def normalize(output: str) -> str:
    """Return the output with a fixed text for each part that differs from run to run."""
    for pattern, replacement in (
        (r"tkdb(pub|signerpub|signer|auth|seal)?_[\w-]+…?", r"tkdb\1_…"),
        (r"\b[0-9a-f]{12,}…?", "<hex>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "<time>"),
        (r"\d+(\.\d+)? ms\b|\b(in )?\d+ (s|min|h|d)( ago)?\b|\bnow\b", "<span>"),
        (r'(_ms|_s)":\d+', r'\1":0'),
        (r"\d+", "0"),
        (r" +", " "),
    ):
        output = re.sub(pattern, replacement, output)
    return output
