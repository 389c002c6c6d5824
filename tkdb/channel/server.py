"""The responder's side: open a request, seal its answer.

>>> import os
>>> from tkdb.channel.client import Initiator
>>> from tkdb.channel.keys import AuthorityIdentity, SignerSecret
>>> secret, signer = AuthoritySecret.generate(os.urandom), SignerSecret.generate(os.urandom)
>>> responder = Responder("tkdb.example", [secret], [signer.public], random=os.urandom)
>>> initiator = Initiator(AuthorityIdentity("tkdb.example", (secret.public,)), signer=signer, random=os.urandom)
>>> sealed = initiator.seal("/v1/sign", b"body", request_id=os.urandom(16), now_ms=1_700_000_000_000)
>>> opened = responder.open("/v1/sign", sealed.headers, sealed.message)
>>> opened.signer == signer.public, opened.envelope.body
(True, b'body')
>>> responder.open("/v1/write", sealed.headers, sealed.message)
Traceback (most recent call last):
...
tkdb.errors.ChannelError: the message can't be opened: check the authority's name and key, and the signer's key
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tkdb import api, errors
from tkdb.channel import noise
from tkdb.channel.client import KEY_HEADER, SIGNER_HEADER
from tkdb.channel.dh import Random, unreadable
from tkdb.channel.envelope import Envelope, decode, prologue, verify_signature
from tkdb.channel.keys import AuthoritySecret, SignerPublic, SignerSecret, parse_name
from tkdb.channel.padding import pad, unpad


class Opened:
    """An opened request: its envelope, its signer (None on paths that are open to anyone), and its one answer."""

    __slots__ = ("_answering", "_random", "envelope", "signer")

    def __init__(
        self, envelope: Envelope, signer: SignerPublic | None, answering: noise.Answering, random: Random
    ) -> None:
        self.envelope = envelope
        self.signer = signer
        self._answering = answering
        self._random = random

    def seal(self, answer: bytes) -> bytes:
        """Return message 2 with ``answer``. Only the caller can read it.

        Raises:
            InvalidRequest: the answer is too large for one message. You can still seal another answer.
            RuntimeError: an answer was sealed already.
        """
        return self._answering.write(pad(answer), self._random)


class Responder:
    """The opener of requests that were sealed to one of an authority's keys and, on signed paths,
    by one of its signers.

    Args:
        name: the authority's name.
        secrets: the authority's static keys; two while the key is rotated.
        signers: the signers that may use the signed paths. The static-static product with each is computed once, here.
        random: the source of ephemeral keys.

    Raises:
        ConfigurationError: the name isn't valid, or there is no key.
    """

    def __init__(
        self, name: str, secrets: Sequence[AuthoritySecret], signers: Iterable[SignerPublic], *, random: Random
    ) -> None:
        if not secrets:
            raise errors.ConfigurationError("an authority needs a secret key, and none was given")
        self._random = random
        self._contexts = {path: prologue(path, parse_name(name)) for path in api.CALLS_BY_PATH}
        self._secrets = {secret.public.thumbprint.hex(): secret.pair for secret in secrets}
        # No caller has the secret of this signer. A message that names an unknown signer is opened as if it came from
        # this one. It then fails at the same place as a failed handshake, after the same work. So an attacker learns
        # as little about the list of signers from the time as from the error.
        self._nobody = SignerSecret.generate(random).public
        self._signers = {signer.thumbprint.hex(): signer for signer in (*signers, self._nobody)}
        self._statics = {
            (key, signer): noise.Statics(pair, public.point)
            for key, pair in self._secrets.items()
            for signer, public in self._signers.items()
        }

    def open(self, path: str, headers: Mapping[str, str], message: bytes) -> Opened:
        """Return the request in message 1. Its time isn't checked here,
        because the answer to a late request is sealed too.

        Args:
            path: the path that the message was sent to.
            headers: the headers, with lower-case names.
            message: the body of the POST.

        Raises:
            ChannelError: the message can't be opened. The text is the same for every cause.
        """
        context = self._contexts.get(path)
        key = headers.get(KEY_HEADER, "")
        pair = self._secrets.get(key)
        if context is None or pair is None:
            raise unreadable()
        if path not in api.SIGNED_PATHS:
            payload, answering = noise.respond_ik(context, pair, message)
            envelope = decode(unpad(payload))
            if envelope.signature:
                raise unreadable()
            return Opened(envelope, None, answering, self._random)
        signer = self._signers.get(headers.get(SIGNER_HEADER, ""), self._nobody)
        payload, answering = noise.respond_kk(context, self._statics[key, signer.thumbprint.hex()], message)
        envelope = decode(unpad(payload))
        verify_signature(signer, context, envelope.time_ms, envelope.request_id, envelope.body, envelope.signature)
        return Opened(envelope, signer, answering, self._random)
