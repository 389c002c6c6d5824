"""The parts of S3's XML that replication needs: pages of ListObjectsV2, and the code of an error. Pure.

A bucket may contain a stranger's data, so the XML is untrusted: its depth is limited, and a document type is refused,
and with it every entity.

>>> error_code(b"<Error><Code>NoSuchKey</Code><Message>...</Message></Error>")
'NoSuchKey'
>>> parse_page(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
ListingPage(objects=(), next_token=None)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from xml.parsers import expat

from tkdb_replication.bucket.objects import Listing

_DEPTH: Final = 8
_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>").search


@dataclass(frozen=True, slots=True)
class ListingPage:
    """One page of a list, and the token that requests the next one."""

    objects: tuple[Listing, ...]
    next_token: str | None


def error_code(body: bytes) -> str:
    """Return the code of an error response, or nothing. It is a word from a closed list, such as NoSuchKey."""
    found = _CODE(body)
    return found[1].decode() if found else ""


def parse_page(body: bytes) -> ListingPage | None:
    """Return the page in a response to ListObjectsV2, or None if it is anything else."""
    reader = _Reader()
    try:
        reader.parser.Parse(body, True)
        return reader.page()
    except (expat.ExpatError, KeyError, ValueError, OverflowError):
        return None


class _Reader:
    """Collects the texts of a page while expat parses it."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse
        self._path: list[str] = []
        self._texts: dict[str, str] = {}
        self._objects: list[Listing] = []

    def page(self) -> ListingPage:
        """Return the page, once it was read completely."""
        truncated = self._texts["ListBucketResult/IsTruncated"]
        if truncated not in ("true", "false"):
            raise ValueError(truncated)
        token = self._texts["ListBucketResult/NextContinuationToken"] if truncated == "true" else None
        return ListingPage(tuple(self._objects), token)

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._path.append(name)
        if len(self._path) > _DEPTH:
            raise ValueError(_DEPTH)
        path = "/".join(self._path)
        if path == "ListBucketResult/Contents":
            self._texts = {key: text for key, text in self._texts.items() if not key.startswith(f"{path}/")}

    def _end(self, _name: str) -> None:
        path = "/".join(self._path)
        self._path.pop()
        if path == "ListBucketResult/Contents":
            self._objects.append(
                Listing(
                    self._texts[f"{path}/Key"],
                    int(self._texts[f"{path}/Size"]),
                    _instant_ms(self._texts[f"{path}/LastModified"]),
                )
            )

    def _text(self, text: str) -> None:
        path = "/".join(self._path)
        self._texts[path] = self._texts.get(path, "") + text

    def _refuse(self, *_declared: object) -> None:
        raise ValueError("a document type")


def _instant_ms(text: str) -> int:
    instant = datetime.fromisoformat(text)
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)
