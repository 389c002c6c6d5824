"""Macaroons: read, attenuate, mint, verify, clear. Pure: no I/O, no clock, no randomness.

A macaroon is a chain of HMACs. The authority begins it with a root key and an identifier. Each caveat is hashed with
the tail before it as the key, and this hash is the new tail. So anyone who holds a token can add a caveat, offline,
and nobody can remove one. Anyone who has the root key can walk the chain again and check that it is valid.

Two questions are separate. *Verify*: is the chain valid, and is no part of it revoked? Only the authority can tell.
*Clear*: does every caveat allow this access? Only the app can tell, because only the app sees the request.

Caveats restrict. Some state facts (for example, for whom the token was minted). Facts count only among the first m
caveats, which the authority itself wrote; the identifier contains m.

================  ==============================================================================================
``wire``          libmacaroons' binary format v2, read strictly; text with a prefix and a checksum
``identifier``    the key, the lineage, and the number of caveats that the authority wrote
``chain``         the HMACs
``caveats``       the typed caveats, each with exactly one form
``access``        the action that a request attempts, and the facts that the app knows beforehand
``clearing``      caveats against an access: cleared, or the reason why not
``restrictions``  the arguments by which Python and the command line name caveats
``token``         a token as read: its parts, and attenuation
``bundle``        the tokens of one Authorization header
``descent``       a token checked from an ancestor that is known to be valid
``mint``          a new token
``verify``        the trusted content of a token
``limits``        the maximum sizes that are read
================  ==============================================================================================
"""
