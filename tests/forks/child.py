"""A forked process that becomes a program: `tkdb`, or a module or code that starts it.

A start of an interpreter that imports `tkdb serve` costs half a second of CPU. A fork of a process that has imported
it costs a few milliseconds. In everything else, the forked process is real: it has its own environment, working
directory, standard streams, signals and exit code.

Rules:

- The caller sets descriptors 0 to 2, the working directory and the session, and forks from a process without threads.
- `become` never returns.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import io
import logging
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn

from tests import profiles
from tkdb_replication.litestream.binary import Program

PACKAGES: Final = ("tkdb", "tkdb_client", "tkdb_replication", "tkdb_ops")

LAZY: Final = (
    *("hypercorn.asyncio", "hypercorn.asyncio.run", "hypercorn.protocol.h11", "hypercorn.protocol.ws_stream"),
    *("uvloop", "aiosqlite", "httpcore", "rich.console", "rich.table", "rich.text", "rich.live"),
    *("tests.regions.chaos.controls", "tests.server.server_process", "tests.replication.replicated"),
    "tests.forks.popen",
)
"""The modules that a program imports only when it needs them."""

FRAMEWORKS: Final = ("asgi", "django", "fastapi", "flask")
"""The modules of the client that import a web framework. No command imports them."""

TKDB: Final = os.path.join(os.path.dirname(sys.executable), "tkdb")  # noqa: PTH118, PTH120  a symlink stays one
MODULES: Final = (
    "tkdb.cli",
    "tests.regions.chaos.controls",
    "tests.server.server_process",
    "tests.replication.replicated",
    "tests.forks.run",
)
LABS: Final = (("lab", "up"), ("drill", "run"))
"""The commands that start machines."""
CODE: Final = "tests.regions.chaos.controls"


def is_known(arguments: Sequence[str]) -> bool:
    """Return True if `become` can run this command line."""
    if arguments[:1] == [TKDB]:
        return True
    if arguments[:1] != [sys.executable] or len(arguments) < 3:
        return False
    return (arguments[1] == "-m" and arguments[2] in MODULES) or (arguments[1] == "-c" and CODE in arguments[2])


def without_env(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a command line without a leading `env NAME=VALUE …`, and those variables."""
    words, variables = list(arguments), {}
    if words[:1] == ["env"]:
        del words[0]
        while words and "=" in words[0]:
            name, _, variables[name] = words.pop(0).partition("=")
    return words, variables


def preload(profile: str) -> None:
    """Import every module that a program may need, and make machines probe their object store as ``profile`` sets."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            last = module.name.rpartition(".")[2]
            if last != "__main__" and not (package == "tkdb_client" and last in FRAMEWORKS):
                importlib.import_module(module.name)
    for name in LAZY:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    profiles.shorten_probe(profile)
    remember_missing_sniffio()
    remember_versions()
    litestream = Path(TKDB).with_name("litestream")
    if litestream.exists():
        # asyncio would leave a thread in the fork server.
        done = subprocess.run([litestream, "version"], env={}, capture_output=True, text=True, check=False)
        _versions[_identity(litestream)] = done.stdout.strip()


def remember_missing_sniffio() -> None:
    """Make the failed import of sniffio cheap. httpcore tries it for each of its locks, which costs 0.1 ms or more."""
    if importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # the import system's record of a failure


_versions: Final[dict[tuple[str, int, int], str]] = {}
"""The output of `litestream version`, by the identity of the program."""


def remember_versions() -> None:
    """Make this process and its forks ask each Litestream for its version once."""
    if getattr(Program._version, "remembers", False):
        return
    ask = Program._version

    async def version(program: Program) -> str:
        identity = _identity(program.path)
        if identity not in _versions:
            _versions[identity] = await ask(program)
        return _versions[identity]

    setattr(version, "remembers", True)  # noqa: B010  mypy knows no attributes of functions
    setattr(Program, "_version", version)  # noqa: B010  from outside


def _identity(program: Path) -> tuple[str, int, int]:
    """Return what changes if a program is replaced."""
    found = program.stat()
    return str(program), found.st_mtime_ns, found.st_size


def become(arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Run a program to its end, and end this process as the interpreter does."""
    os.closerange(3, 1 << 20)
    _set_signals()
    prepare(environment)
    code = _code_of(lambda: _run(list(arguments)))
    os._exit(_finish(code))


def prepare(environment: Mapping[str, str]) -> None:
    """Give this process its environment, and new streams over descriptors 0 to 2."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None  # The environment decides it.
    _open_streams(environment)


def _run(arguments: list[str]) -> None:
    """Run a command line that `is_known` has accepted."""
    if arguments[0] == TKDB:
        from tkdb.cli import main

        sys.argv = arguments
        sys.path[0] = os.path.dirname(TKDB)  # noqa: PTH120
        sys.modules["__main__"] = ModuleType("__main__")
        if tuple(arguments[1:3]) in LABS:
            _fork_machines()
        main()
        return
    sys.path[0] = os.getcwd() if arguments[1] == "-m" else ""  # noqa: PTH109
    sys.argv = [arguments[1], *arguments[3:]]
    if arguments[1] == "-c":
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(arguments[2], "<string>", "exec"), vars(module))  # noqa: S102  the interpreter does the same
        return
    sys.modules.pop(arguments[2], None)  # Otherwise runpy warns that the module was imported before it runs.
    runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)


def _fork_machines() -> None:
    """Make this process fork the machines that it starts, from a fork server of its own."""
    from tests.forks import popen

    popen.FORKS.start_here()
    popen.install()
    atexit.register(popen.uninstall)


def _set_signals() -> None:
    """Handle signals as a new interpreter does. A lab's namespace init has reset them, as exec(2) requires."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_streams(environment: Mapping[str, str]) -> None:
    """Give `sys` new streams over descriptors 0 to 2, as the interpreter opens them."""
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG") or "C"
    errors = "surrogateescape" if locale in {"C", "POSIX"} else "strict"
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8", errors=errors
    )
    for number, name, handling in ((1, "stdout", errors), (2, "stderr", "backslashreplace")):
        raw = io.FileIO(number, "w", closefd=False)
        is_terminal = raw.isatty()
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding="utf-8", errors=handling, newline="\n",
            line_buffering=is_terminal or number == 2,
        )  # fmt: skip
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    logging.lastResort = logging._StderrHandler(logging.WARNING)  # type: ignore[attr-defined]


def _code_of(run: Callable[[], None]) -> int:
    """Run a program, and return its exit code."""
    try:
        run()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        _flush((sys.stdout, sys.stderr))
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 130
    except BaseException:  # noqa: BLE001  the interpreter reports all of them
        traceback.print_exc()
        return 1
    return 0


def _finish(code: int) -> int:
    """Do the interpreter's work at its end, and return the exit code."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return code if _flush((sys.stdout, sys.stderr)) else 120


def _flush(streams: Iterable[io.TextIOBase]) -> bool:
    """Flush the streams. Return True if all of them could be flushed."""
    try:
        for stream in streams:
            stream.flush()
    except (OSError, ValueError):
        return False
    return True
