"""Fuzz one target with Atheris (libFuzzer), guided by every line and branch of tkdb that an input reaches.

    python -m tests.fuzz.guided wire -max_total_time=600

It needs the dependency group ``fuzz``. The options after the target's name go to libFuzzer. It runs until you stop it
or it finds a bug, and prints where it saved the input. ``python -m tests.fuzz`` needs no other package, and only
refusals guide it. This program also distinguishes paths through the code that end in the same refusal.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory


def main(name: str, *options: str) -> None:
    import atheris  # type: ignore[import-untyped]  # must come before the imports that it instruments

    with atheris.instrument_imports(include=["tkdb", "tests.fuzz"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def read(data: bytes) -> None:
        with suppress(*target.refusals):
            target.read(data)

    with TemporaryDirectory() as folder:
        corpus, words = Path(folder, "corpus"), Path(folder, "words")
        corpus.mkdir()
        for number, data in enumerate(target.corpus()):
            (corpus / str(number)).write_bytes(data)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words or [b"tkdb"]))
        atheris.Setup([sys.argv[0], f"-dict={words}", *options, str(corpus)], read)
        atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(*sys.argv[1:])
