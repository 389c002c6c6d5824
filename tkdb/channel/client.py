"""The initiator's side: seal a request, open its answer.

>>> import os
>>> from tkdb.channel.keys import AuthoritySecret
>>> authority = AuthorityIdentity("tkdb.example", (AuthoritySecret.generate(os.urandom).public,))
>>> initiator = Initiator(authority, signer=None, random=os.urandom)
>>> sealed = initiator.seal("/v1/verify", b"body", request_id=os.urandom(16), now_ms=1_700_000_000_000)
>>> len(sealed.message), list(sealed.headers)
(352, ['tkdb-key'])
>>> initiator.seal("/v1/sign", b"body", request_id=os.urandom(16), now_ms=1_700_000_000_000)
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: /v1/sign is for signers, and no signer's secret is configured: give one (tkdbsigner_…)
"""

from __future__ import annotations

from typing import Final

from tkdb import api, errors
from tkdb.channel import noise
from tkdb.channel.dh import KEY_BYTES, KeyPair, Random
from tkdb.channel.envelope import REQUEST_ID_BYTES, Envelope, encode, prologue, signed_bytes
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.channel.padding import pad, unpad

KEY_HEADER: Final = "tkdb-key"
"""The header with the thumbprint, in hex, of the authority key that message 1 is sealed to."""

SIGNER_HEADER: Final = "tkdb-signer"
"""The header with the thumbprint, in hex, of the signer that seals message 1."""


class Sealed:
    """A sealed request, ready to send: the body of the POST and its headers. It opens one answer."""

    __slots__ = ("_waiting", "headers", "message")

    def __init__(self, message: bytes, headers: dict[str, str], waiting: noise.Waiting) -> None:
        self.message = message
        self.headers = headers
        self._waiting = waiting

    def open(self, message: bytes) -> bytes:
        """Return the answer in message 2.

        Raises:
            ChannelError: the message isn't the authority's answer to this request, or was altered.
            RuntimeError: this method was called before, with or without success: one request reads one answer.
        """
        return unpad(self._waiting.read(message))


class Initiator:
    """The sealer of requests to one authority, as a signer or anonymously.

    The static key of an anonymous caller is made once for each ``Initiator``, from ``random``. It identifies nobody.
    """

    def __init__(self, identity: AuthorityIdentity, *, signer: SignerSecret | None, random: Random) -> None:
        self._name = identity.name
        self._keys = [{KEY_HEADER: key.thumbprint.hex()} for key in identity.keys]
        caller = KeyPair(random(KEY_BYTES))
        self._anonymous = [noise.Statics(caller, key.point) for key in identity.keys]
        self._signer = signer
        self._signing = [noise.Statics(signer.pair, key.point) for key in identity.keys] if signer else []
        self._random = random

    def seal(
        self, path: str, body: bytes, *, request_id: bytes, now_ms: int, position: int = 0, key: int = 0
    ) -> Sealed:
        """Return ``body`` sealed for ``path``: with Noise_KK and a signature on signed paths, else with Noise_IK.

        Args:
            path: one of the paths of ``tkdb.api``.
            body: the encoded request.
            request_id: 16 random bytes. Use the same bytes again when you repeat a write.
            now_ms: the time, ms since 1970.
            position: the highest position that the caller has seen.
            key: the index of the identity's key to seal to, counted from 0.

        Raises:
            ConfigurationError: the path is for signers, and there is no signer.
            InvalidRequest: the request is too large for one message, or the path or request id isn't valid.
        """
        if path not in api.CALLS_BY_PATH:
            raise errors.InvalidRequest(f"a path of the authority was expected: one of {', '.join(api.CALLS_BY_PATH)}")
        if len(request_id) != REQUEST_ID_BYTES:
            raise errors.InvalidRequest(f"a request id has {REQUEST_ID_BYTES} bytes; this one has {len(request_id)}")
        context = prologue(path, self._name)
        if path not in api.SIGNED_PATHS:
            payload = pad(encode(Envelope(now_ms, request_id, position, body)))
            message, waiting = noise.initiate_ik(context, self._anonymous[key], payload, self._random)
            return Sealed(message, dict(self._keys[key]), waiting)
        if self._signer is None:
            raise errors.ConfigurationError(
                f"{path} is for signers, and no signer's secret is configured", hint="give one (tkdbsigner_…)"
            )
        signature = self._signer.sign(signed_bytes(context, now_ms, request_id, body))
        payload = pad(encode(Envelope(now_ms, request_id, position, body, signature)))
        message, waiting = noise.initiate_kk(context, self._signing[key], payload, self._random)
        headers = self._keys[key] | {SIGNER_HEADER: self._signer.public.thumbprint.hex()}
        return Sealed(message, headers, waiting)
