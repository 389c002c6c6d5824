"""tkdb, an isolated token authority: it holds root keys of macaroons, and mints, verifies and revokes.

ARCHITECTURE.md has the map of the packages.

``api``          The methods of the authority, as messages
``arguments``    Checks of arguments: each argument of the Python API that can't be meant raises an error with its name
``armor``        Armor: bytes as text that secret scanners can find, with a checksum that detects a cut-off text
``attestation``  Fly-Src: the proxy's attestation of the sender of a request on the private network
``bootstrap``    From settings to an open authority, with the clocks and the randomness of this system
``defaults``     The defaults that several packages share
``errors``       Every error that tkdb raises, as one tree
``extras``       The hint that installs an optional part of tkdb
``failure``      An error on the wire: the code of its class in ``tkdb.errors``, and its texts
``logs``         Structured logs on stderr: JSON lines for programs, short lines for a terminal
``ports``        The interfaces between the parts of the authority, as Protocols
``rate_limit``   A rate limit for each key
``settings``     The authority's configuration, read from the environment
``signers``      The signers: each one's public key, organizations and permissions, as the configuration lists them
``authority``    The authority: what each method of `tkdb.api` does
``channel``      The channel: one HTTP request and its answer, as the two messages of a Noise handshake
``cli``          The `tkdb` command, with one module for each command
``database``     The database: the journal and its fold in SQLite, and the audit that compares them
``dev``          The authority as plain JSON, for `tkdb dev`
``journal``      The journal
``macaroon``     Macaroons: read, attenuate, mint, verify, clear
``net``          Calling an HTTP service: its URL, connections that end in time, and the wait before a retry
``server``       The HTTP server: a Starlette app on Hypercorn
"""

__version__ = "0.1.0"
