"""The credentials of the object store, and their source, which is read again when the store refuses them.

Temporary keys expire, and other keys are replaced. A machine that read its keys only once would need a restart then, in
every region at the same time. The sources are the usual ones of S3 tools, in this order:

1. ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN``, each a value, or with ``_FILE`` after its
   name the path of a file with the value. Values can't change while the process runs; files can.
2. ``AWS_SHARED_CREDENTIALS_FILE``, with ``AWS_PROFILE``.
3. ``AWS_CONTAINER_CREDENTIALS_FULL_URI`` or ``AWS_CONTAINER_CREDENTIALS_RELATIVE_URI``: the endpoint of ECS, of EKS's
   pod identity, or of another agent, with ``AWS_CONTAINER_AUTHORIZATION_TOKEN`` (or ``…_FILE``).

>>> source = source_of({"AWS_ACCESS_KEY_ID": "tid_1", "AWS_SECRET_ACCESS_KEY": "tsec_1"})
>>> source.current, source.name
(Credentials(), 'the environment, so set a new one and restart')
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from configparser import Error as NoIni
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from tkdb import errors, logs
from tkdb.net.url import Url

AGAIN_S: Final = 1.0
"""The pause between two reads of a source. A machine is refused several times a second."""
CONTAINER_TIMEOUT_MS: Final = 1_000
_MAX_BYTES: Final = 65_536
_CREDENTIAL: Final = re.compile(r"[!-~]{1,4096}").fullmatch
_KEY, _SECRET, _TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_SHARED: Final = "AWS_SHARED_CREDENTIALS_FILE"
_FULL, _RELATIVE = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
_AUTHORIZATION: Final = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
_ECS: Final = "http://169.254.170.2"
_PLAIN_HOSTS: Final = frozenset({"169.254.170.2", "169.254.170.23", "fd00:ec2::23", "127.0.0.1", "::1", "localhost"})
"""The hosts that credentials may come from without TLS, as in AWS's own tools: this machine's, and the link's."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key of the object store. Its text shows no part of it.

    Attributes:
        access_key_id: the key's id, sent with each request.
        secret_access_key: signs requests, and is never sent.
        session_token: belongs to temporary keys, and is sent with each request.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def redact(self, text: str) -> str:
        """Return ``text`` without these credentials."""
        for part in (self.secret_access_key, self.session_token, self.access_key_id):
            if part:
                text = text.replace(part, "***")
        return text


class CredentialSource:
    """The current credentials, and how to read them again. Everything that uses a bucket shares its source.

    Args:
        read: reads the credentials, in a thread. None: they can't change.
        current: the credentials to begin with.
        name: the source and what to do there, as the end of a sentence.

    Attributes:
        current: the credentials that were read last.
    """

    def __init__(self, read: Callable[[], Credentials] | None, current: Credentials, name: str) -> None:
        self.current = current
        self.name = name
        self._read = read
        self._lock = asyncio.Lock()
        self._again_s = 0.0

    @classmethod
    def fixed(cls, credentials: Credentials) -> Self:
        """Return a source of credentials that never change."""
        return cls(None, credentials, "the environment, so set a new one and restart")

    async def renew(self, refused: Credentials) -> bool:
        """Read the source again, because the store refused ``refused``. Return True if ``current`` is different now."""
        if self._read is None:
            return False
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            if self.current == refused and now_s >= self._again_s:
                self._again_s = now_s + AGAIN_S
                try:
                    self.current = await asyncio.to_thread(self._read)
                except errors.TkdbError as error:
                    logs.event(logging.WARNING, "credentials unread", why=error.message)
                if self.current != refused:
                    logs.event(logging.INFO, "credentials replaced")
            return self.current != refused


def source_of(environment: Mapping[str, str]) -> CredentialSource:
    """Return the source of credentials that the environment describes. It was read once.

    Raises:
        ConfigurationError: there is none, or it can't be read. The message never contains a credential's value.
    """
    if any(environment.get(name) or environment.get(f"{name}_FILE") for name in (_KEY, _SECRET)):
        first = _from_variables(environment)
        files = [environment[f"{name}_FILE"] for name in (_KEY, _SECRET, _TOKEN) if environment.get(f"{name}_FILE")]
        if not files:
            return CredentialSource.fixed(first)
        name = f"{', '.join(files)}, so write a new one there"
        return CredentialSource(lambda: _from_variables(environment), first, name)
    if shared := environment.get(_SHARED):
        path, profile = Path(shared), environment.get("AWS_PROFILE") or "default"
        name = f"{path} (profile {profile}), so write a new one there"
        return CredentialSource(lambda: _from_shared(path, profile), _from_shared(path, profile), name)
    if environment.get(_FULL) or environment.get(_RELATIVE):
        url = _container_url(environment)
        name = f"{url}, so check the role that it gives"
        return CredentialSource(lambda: _from_container(url, environment), _from_container(url, environment), name)
    raise errors.ConfigurationError(f"{_KEY} is missing", hint="set the value that `fly storage create` printed")


def _from_variables(environment: Mapping[str, str]) -> Credentials:
    key, secret, token = (_variable(environment, name) for name in (_KEY, _SECRET, _TOKEN))
    return _checked(key, secret, token, (_KEY, _SECRET, _TOKEN))


def _variable(environment: Mapping[str, str], name: str) -> str:
    value, path = environment.get(name) or "", environment.get(f"{name}_FILE")
    if not path:
        return value
    if value:
        raise errors.ConfigurationError(f"{name} and {name}_FILE are set", hint="set one of them")
    return _content(Path(path), f"{name}_FILE").strip()


def _from_shared(path: Path, profile: str) -> Credentials:
    """Return the credentials of a profile of AWS's shared credentials file."""
    ini = ConfigParser(interpolation=None)
    try:
        ini.read_string(_content(path, _SHARED))
    except NoIni:  # its message quotes the line
        raise errors.ConfigurationError(f"{_SHARED}: {path} isn't an INI file", hint="check it") from None
    if not ini.has_section(profile):
        raise errors.ConfigurationError(f"{_SHARED}: {path} has no profile {profile}", hint="set AWS_PROFILE")
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    key, secret, token = (ini.get(profile, name, fallback="").strip() for name in names)
    return _checked(key, secret, token, names)


def _content(path: Path, variable: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode()
    except OSError as error:
        raise errors.ConfigurationError(
            f"{variable}: {path} can't be read: {error.strerror}", hint="check it"
        ) from None
    except UnicodeDecodeError:
        raise errors.ConfigurationError(f"{variable}: {path} isn't text in UTF-8", hint="check it") from None


def _checked(key: str, secret: str, token: str, names: tuple[str, ...]) -> Credentials:
    for name, value in zip(names, (key, secret, token), strict=True):
        if not value and name != names[2]:
            raise errors.ConfigurationError(
                f"{name} is missing", hint="set the value that `fly storage create` printed"
            )
        if value and not _CREDENTIAL(value):
            raise errors.ConfigurationError(f"{name} is not valid", hint="check it for spaces, quotes or a missing end")
    return Credentials(key, secret, token or None)


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of a container's endpoint. It has more fields."""

    access_key_id: str
    secret_access_key: str
    token: str = ""

    def __repr__(self) -> str:
        return "<credentials of a container>"


def _container_url(environment: Mapping[str, str]) -> Url:
    full, relative = environment.get(_FULL), environment.get(_RELATIVE)
    text, name = (_ECS + relative, _RELATIVE) if relative else (full or "", _FULL)
    try:
        url = Url.parse(text)
    except errors.ConfigurationError as error:
        raise errors.ConfigurationError(f"{name}: {error.message}", hint="check it") from None
    if url.scheme != "https" and url.host not in _PLAIN_HOSTS:
        raise errors.ConfigurationError(
            f"{name}: {url} is neither https nor on this machine", hint="give the agent's address"
        )
    return url


def _from_container(url: Url, environment: Mapping[str, str]) -> Credentials:
    from http import client  # only a machine with such a source needs it

    token = _variable(environment, _AUTHORIZATION)
    if not (token.isascii() and token.isprintable()):
        raise errors.ConfigurationError(f"{_AUTHORIZATION} is not valid", hint="check it for line ends")
    kind = client.HTTPSConnection if url.scheme == "https" else client.HTTPConnection
    connection = kind(url.host, url.port, timeout=CONTAINER_TIMEOUT_MS / 1000)
    try:
        connection.request("GET", url.prefix or "/", headers={"authorization": token} if token else {})
        response = connection.getresponse()
        body = response.read(_MAX_BYTES)
    except (OSError, client.HTTPException) as error:
        raise errors.ConfigurationError(
            f"{url} gives no credentials: {type(error).__name__}", hint="check the agent that gives them"
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise errors.ConfigurationError(f"{url} answers {response.status}", hint="check the role and the token")
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise errors.ConfigurationError(f"{url} answers without credentials", hint="check the URL") from None
    return _checked(
        answer.access_key_id, answer.secret_access_key, answer.token, ("AccessKeyId", "SecretAccessKey", "Token")
    )
