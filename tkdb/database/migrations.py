"""The tables, version by version. A database's ``user_version`` is the number of these scripts that ran on it.

>>> len(MIGRATIONS) >= 1
True
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x746B6462
"""The four letters "tkdb", at bytes 68 to 71 of the file (https://www.sqlite.org/fileformat.html)."""

_1_JOURNAL_AND_FOLD: Final = """
CREATE TABLE journal (
    seq        INTEGER PRIMARY KEY CHECK (seq > 0),
    previous   BLOB    NOT NULL CHECK (length(previous) = 32),
    epoch      INTEGER NOT NULL,
    time_ms    INTEGER NOT NULL,
    signer     BLOB    NOT NULL,
    request_id BLOB    NOT NULL,
    signed_ms  INTEGER NOT NULL,
    signature  BLOB    NOT NULL,
    body       BLOB    NOT NULL,
    made       BLOB    NOT NULL,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- A signer's request is carried out once.
CREATE UNIQUE INDEX journal_requests ON journal (signer, request_id) WHERE signer <> x'';

CREATE TABLE authority (
    one     INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    journal BLOB    NOT NULL CHECK (length(journal) = 16),
    name    TEXT    NOT NULL
) STRICT;

CREATE TABLE chain_keys (
    generation INTEGER PRIMARY KEY,
    from_seq   INTEGER NOT NULL,
    sealed     BLOB    NOT NULL
) STRICT;

CREATE TABLE organizations (
    name               TEXT    PRIMARY KEY,
    max_lifetime_s     INTEGER NOT NULL,
    longest_lifetime_s INTEGER NOT NULL CHECK (longest_lifetime_s >= max_lifetime_s),
    created_ms         INTEGER NOT NULL,
    issued_from_ms     INTEGER NOT NULL,
    deleted            INTEGER NOT NULL CHECK (deleted IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE root_keys (
    kid          BLOB    PRIMARY KEY CHECK (length(kid) = 16),
    organization TEXT    NOT NULL REFERENCES organizations (name),
    generation   INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('signing', 'verifying', 'retired')),
    until_ms     INTEGER CHECK ((until_ms IS NOT NULL) = (state = 'verifying')),
    sealed       BLOB    NOT NULL CHECK ((sealed = x'') = (state = 'retired')),
    UNIQUE (organization, generation)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX root_keys_signing ON root_keys (organization) WHERE state = 'signing';

-- By nonce first: it begins with its time, by which revocations are forgotten.
CREATE TABLE revocations (
    nonce  BLOB    NOT NULL CHECK (length(nonce) = 16),
    kid    BLOB    NOT NULL CHECK (length(kid) = 16),
    branch BLOB    NOT NULL CHECK (length(branch) IN (0, 16)),
    seq    INTEGER NOT NULL,
    PRIMARY KEY (nonce, kid, branch)
) STRICT, WITHOUT ROWID;

CREATE TABLE subjects (
    organization   TEXT    NOT NULL REFERENCES organizations (name),
    subject        BLOB    NOT NULL CHECK (length(subject) = 16),
    issued_from_ms INTEGER NOT NULL,
    PRIMARY KEY (organization, subject)
) STRICT, WITHOUT ROWID;

CREATE INDEX subjects_by_time ON subjects (issued_from_ms);
"""

MIGRATIONS: Final = (_1_JOURNAL_AND_FOLD,)
