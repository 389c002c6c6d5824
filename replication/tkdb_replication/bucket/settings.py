"""The bucket's settings: the object store's address and the source of credentials, from AWS's usual variables.

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
from tkdb_replication.bucket.credentials import Credentials, CredentialSource, source_of

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]").fullmatch
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}").fullmatch


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of an S3 object store.

    Attributes:
        name: three to 63 characters.
        endpoint: the store's URL without the bucket, which always goes into the path.
        region: the region in signatures; "auto" if the store ignores it.
        source: the source of the credentials.
    """

    name: str
    endpoint: Url
    region: str
    source: CredentialSource = field(repr=False)

    @property
    def credentials(self) -> Credentials:
        """The current credentials. They change if the source is read again."""
        return self.source.current

    def __repr__(self) -> str:
        return f"Bucket(name={self.name!r}, endpoint='{self.endpoint}', region={self.region!r})"

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> Self:
        """Return the bucket that the environment describes.

        ``BUCKET_NAME`` must be set, and a source of credentials (``bucket.credentials``). The default of
        ``AWS_ENDPOINT_URL_S3`` (or ``AWS_ENDPOINT_URL``) is AWS's own store, and that of ``AWS_REGION`` is "auto".

        Raises:
            ConfigurationError: a variable is missing or not valid. The message never contains a credential's value.
        """
        name = _text(environment, "BUCKET_NAME", _NAME)
        region = _text(environment, "AWS_REGION", _REGION, default="auto")
        aws = "https://s3.amazonaws.com" if region == "auto" else f"https://s3.{region}.amazonaws.com"
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or aws
        return cls(name, _endpoint(endpoint), region, source_of(environment))


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
