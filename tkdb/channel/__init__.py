"""The channel: one HTTP request and its answer, as the two messages of a Noise handshake.

The body of the POST is message 1 with the request in its payload. The body of the response is message 2. There is no
session and no state between requests, so any machine of any region can answer. An untrusted proxy can still route, fail
over and replay. Every module here is pure: time and randomness are arguments.

=============================  ==========================================================================
``tkdb.channel.keys``          the keys of authorities and signers, and how clients name an authority
``tkdb.channel.client``        the initiator's side: seal a request, open its answer
``tkdb.channel.server``        the responder's side: open a request, seal its answer
``tkdb.channel.envelope``      the payload of message 1, its signature and its age
``tkdb.channel.padding``       payloads in steps of 256 bytes
``tkdb.channel.noise``         Noise_IK and Noise_KK
``tkdb.channel.symmetric``     the hash, the chaining key and the cipher key under a handshake
``tkdb.channel.dh``            X25519
=============================  ==========================================================================

The two patterns give these properties (Noise specification, revision 34, section 7.7). Only a holder of an authority
key can read message 1, or write message 2. Message 1 has no forward secrecy: an attacker who later steals the
authority's static key can read recorded messages. That key is therefore rotated, and clients accept two keys. Message 1
can be replayed, so its payload contains a time and a request id. On signed paths it also contains an Ed25519 signature,
because with Noise_KK alone a thief of the authority's static key could send requests as any signer.

>>> import os
>>> from tkdb.channel.client import Initiator
>>> from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret
>>> from tkdb.channel.server import Responder
>>> secret = AuthoritySecret.generate(os.urandom)
>>> client = Initiator(AuthorityIdentity("tkdb.example", (secret.public,)), signer=None, random=os.urandom)
>>> authority = Responder("tkdb.example", [secret], [], random=os.urandom)
>>> sealed = client.seal("/v1/verify", b"is it valid?", request_id=os.urandom(16), now_ms=1_700_000_000_000)
>>> opened = authority.open("/v1/verify", sealed.headers, sealed.message)
>>> opened.envelope.body
b'is it valid?'
>>> sealed.open(opened.seal(b"yes"))
b'yes'
"""
