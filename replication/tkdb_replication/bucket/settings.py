"""The bucket's settings: the object store's address and the credentials, from AWS's usual environment variables.

>>> bucket = Bucket.parse({"BUCKET_NAME": "acme-tkdb", "AWS_ENDPOINT_URL_S3": "https://fly.storage.tigris.dev",
...                        "AWS_ACCESS_KEY_ID": "tid_1", "AWS_SECRET_ACCESS_KEY": "tsec_1"})
>>> bucket
Bucket(name='acme-tkdb', endpoint='https://fly.storage.tigris.dev', region='auto')
>>> Bucket.parse({"BUCKET_NAME": "acme-tkdb"})
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: AWS_ACCESS_KEY_ID is missing: set the value that `fly storage create` printed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from tkdb import errors
from tkdb.net.url import Url

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]").fullmatch
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}").fullmatch
_CREDENTIAL: Final = re.compile(r"[!-~]{1,2048}").fullmatch


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


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of an S3 object store.

    Attributes:
        name: three to 63 characters.
        endpoint: the store's URL without the bucket, which always goes into the path.
        region: the region in signatures; "auto" if the store ignores it.
    """

    name: str
    endpoint: Url
    region: str
    credentials: Credentials = field(repr=False)

    def __repr__(self) -> str:
        return f"Bucket(name={self.name!r}, endpoint='{self.endpoint}', region={self.region!r})"

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> Self:
        """Return the bucket that the environment describes.

        ``BUCKET_NAME``, ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` must be set. The default of
        ``AWS_ENDPOINT_URL_S3`` (or ``AWS_ENDPOINT_URL``) is AWS's own store, and that of ``AWS_REGION`` is "auto".
        ``AWS_SESSION_TOKEN`` belongs to temporary keys.

        Raises:
            ConfigurationError: a variable is missing or not valid. The message never contains a credential's value.
        """
        name = _text(environment, "BUCKET_NAME", _NAME)
        region = _text(environment, "AWS_REGION", _REGION, default="auto")
        aws = "https://s3.amazonaws.com" if region == "auto" else f"https://s3.{region}.amazonaws.com"
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or aws
        credentials = Credentials(
            _text(environment, "AWS_ACCESS_KEY_ID", _CREDENTIAL),
            _text(environment, "AWS_SECRET_ACCESS_KEY", _CREDENTIAL),
            _text(environment, "AWS_SESSION_TOKEN", _CREDENTIAL) if environment.get("AWS_SESSION_TOKEN") else None,
        )
        return cls(name, _endpoint(endpoint), region, credentials)


def _text(environment: Mapping[str, str], variable: str, matches: Callable[[str], object], default: str = "") -> str:
    value = environment.get(variable) or default
    if not value:
        raise errors.ConfigurationError(
            f"{variable} is missing", hint="set the value that `fly storage create` printed"
        )
    if not matches(value):
        raise errors.ConfigurationError(f"{variable} is not valid", hint="check it for spaces, quotes or a missing end")
    return value


def _endpoint(text: str) -> Url:
    hint = "give a URL such as https://fly.storage.tigris.dev"
    try:
        url = Url.parse(text)
    except errors.ConfigurationError as error:
        raise errors.ConfigurationError(f"AWS_ENDPOINT_URL_S3: {error.message}", hint=hint) from None
    if url.region:
        raise errors.ConfigurationError("AWS_ENDPOINT_URL_S3: an object store's URL names no region", hint=hint)
    return url
