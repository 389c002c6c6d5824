"""One target under Atheris, that is libFuzzer: guided by every line and branch of tkdb that an input reaches.

    python -m tests.fuzz.guided wire -max_total_time=600

It needs the dependency group ``fuzz``. What stands behind the target's name goes to libFuzzer, which goes on until it
is stopped or finds something, and says where it saved the input. ``python -m tests.fuzz`` needs nothing, and is
guided by refusals alone; this one sees the ways through code that end in the same refusal.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory


def main(name: str, *options: str) -> None:
    import atheris  # type: ignore[import-untyped]  # here, and before what it instruments

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
