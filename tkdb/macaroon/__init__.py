"""Macaroons: read, attenuate, mint, verify, clear. Pure: no I/O, no clock, no randomness.

A macaroon is a chain of HMACs. The authority begins it with a root key and an identifier; each caveat is hashed
under the tail before it, and its own hash is the new tail. So anyone who holds a token can add a caveat, offline,
and nobody can take one away. Whoever has the root key can walk the chain again and see whether it is whole.

Two questions are kept apart. *Verify*: is the chain whole, and is nothing of it revoked? Only the authority knows.
*Clear*: does every caveat allow this access? Only the app knows, for only it sees the request.

Caveats restrict. Some state facts (whom the token was minted for); those count only among the first m caveats,
which the authority itself wrote, as the identifier says.

===============  =============================================================================================
``wire``         libmacaroons' binary format v2, read strictly; text with a prefix and a checksum
``identifier``   which key, which lineage, how many caveats are the authority's own
``chain``        the HMACs
``caveats``      what a caveat may say, typed, each in one form
``access``       what a request attempts; what the app knows beforehand
``clearing``     caveats against an access: clear, or the reason why not
``token``        a token as read: its parts, and attenuating it
``bundle``       the tokens of one Authorization header
``mint``         a new token
``verify``       what of a token is to be trusted
``limits``       how much is read at most
===============  =============================================================================================
"""
