"""Noise_IK and Noise_KK, from either side (Noise specification, revision 34).

::

    IK:  <- s                      KK:  -> s
         ...                            <- s
         -> e, es, s, ss                ...
         <- e, ee, se                   -> e, es, ss
                                        <- e, ee, se

Message 1 (payload of n bytes):

=========  =========  ====================================================
IK offset  KK offset
=========  =========  ====================================================
0          0          e: the initiator's ephemeral public key, 32 bytes
32         none       s: its static public key, encrypted, 32 + 16 bytes
80         32         the payload, encrypted, n + 16 bytes
=========  =========  ====================================================

Message 2: ``e``, 32 bytes, and the payload, encrypted, n + 16 bytes.

Each step returns only the object that the next step needs, so a step out of order is a type error. The object that
writes or reads message 2 does so once. A second call raises ``RuntimeError``, because it would repeat a nonce.

>>> import os
>>> alice, bob = KeyPair(os.urandom(32)), KeyPair(os.urandom(32))
>>> message_1, waiting = initiate_kk(b"prologue", Statics(alice, bob.public), b"ping", os.urandom)
>>> payload, answering = respond_kk(b"prologue", Statics(bob, alice.public), message_1)
>>> payload
b'ping'
>>> waiting.read(answering.write(b"pong", os.urandom))
b'pong'
"""

from __future__ import annotations

from typing import Final

from tkdb.channel.dh import KEY_BYTES, KeyPair, PublicKey, Random, unreadable
from tkdb.channel.symmetric import TAG_BYTES, SymmetricState

IK: Final = b"Noise_IK_25519_ChaChaPoly_SHA256"
KK: Final = b"Noise_KK_25519_ChaChaPoly_SHA256"

MAX_MESSAGE_BYTES: Final = 65_535
_SEALED_KEY_BYTES: Final = KEY_BYTES + TAG_BYTES


class Statics:
    """Our static key pair, their static public key, and the product of the two, which is computed once.

    Raises:
        ChannelError: their key is a point of low order.
    """

    __slots__ = ("ours", "product", "theirs")

    def __init__(self, ours: KeyPair, theirs: PublicKey) -> None:
        self.ours = ours
        self.theirs = theirs
        self.product = ours.exchange(theirs)


class Waiting:
    """The initiator between the messages: it reads one message 2."""

    __slots__ = ("_ephemeral", "_state", "_static")

    def __init__(self, state: SymmetricState, static: KeyPair, ephemeral: KeyPair) -> None:
        self._state: SymmetricState | None = state
        self._static = static
        self._ephemeral = ephemeral

    def read(self, message: bytes) -> bytes:
        """Return the payload of message 2.

        Raises:
            ChannelError: the message isn't the answer to our message 1, or was altered.
            RuntimeError: this method was called before, with or without success.
        """
        state, self._state = self._state, None
        if state is None:
            raise RuntimeError("an answer was opened already: seal the request again")
        # <- e, ee, se
        their_ephemeral = _read_ephemeral(state, message)
        state.mix_key(self._ephemeral.exchange(their_ephemeral))
        state.mix_key(self._static.exchange(their_ephemeral))
        return state.decrypt_and_hash(message[KEY_BYTES:])


class Answering:
    """The responder between the messages: it writes one message 2."""

    __slots__ = ("_state", "_their_ephemeral", "_their_static")

    def __init__(self, state: SymmetricState, their_static: PublicKey, their_ephemeral: PublicKey) -> None:
        self._state: SymmetricState | None = state
        self._their_static = their_static
        self._their_ephemeral = their_ephemeral

    def write(self, payload: bytes, random: Random) -> bytes:
        """Return message 2 with ``payload``.

        Raises:
            RuntimeError: a message 2 was written already.
        """
        state, self._state = self._state, None
        if state is None:
            raise RuntimeError("an answer was sealed already: one request has one answer")
        # <- e, ee, se
        ephemeral = _write_ephemeral(state, random)
        state.mix_key(ephemeral.exchange(self._their_ephemeral))
        state.mix_key(ephemeral.exchange(self._their_static))
        return ephemeral.public.raw + state.encrypt_and_hash(payload)


def initiate_ik(prologue: bytes, statics: Statics, payload: bytes, random: Random) -> tuple[bytes, Waiting]:
    """Return message 1 of Noise_IK, and the object that reads its answer."""
    # <- s
    state = SymmetricState(IK, prologue)
    state.mix_hash(statics.theirs.raw)
    # -> e, es, s, ss
    ephemeral = _write_ephemeral(state, random)
    state.mix_key(ephemeral.exchange(statics.theirs))
    sealed_static = state.encrypt_and_hash(statics.ours.public.raw)
    state.mix_key(statics.product)
    message = ephemeral.public.raw + sealed_static + state.encrypt_and_hash(payload)
    return message, Waiting(state, statics.ours, ephemeral)


def initiate_kk(prologue: bytes, statics: Statics, payload: bytes, random: Random) -> tuple[bytes, Waiting]:
    """Return message 1 of Noise_KK, and the object that reads its answer."""
    # -> s
    # <- s
    state = SymmetricState(KK, prologue)
    state.mix_hash(statics.ours.public.raw)
    state.mix_hash(statics.theirs.raw)
    # -> e, es, ss
    ephemeral = _write_ephemeral(state, random)
    state.mix_key(ephemeral.exchange(statics.theirs))
    state.mix_key(statics.product)
    message = ephemeral.public.raw + state.encrypt_and_hash(payload)
    return message, Waiting(state, statics.ours, ephemeral)


def respond_ik(prologue: bytes, ours: KeyPair, message: bytes) -> tuple[bytes, Answering]:
    """Return the payload of message 1 of Noise_IK, and the object that writes its answer.

    Raises:
        ChannelError: ``message`` isn't a message 1 for this key and prologue.
    """
    # <- s
    state = SymmetricState(IK, prologue)
    state.mix_hash(ours.public.raw)
    # -> e, es, s, ss
    payload_at = KEY_BYTES + _SEALED_KEY_BYTES
    their_ephemeral = _read_ephemeral(state, message, payload_at)
    state.mix_key(ours.exchange(their_ephemeral))
    their_static = PublicKey(state.decrypt_and_hash(message[KEY_BYTES:payload_at]))
    state.mix_key(ours.exchange(their_static))
    payload = state.decrypt_and_hash(message[payload_at:])
    return payload, Answering(state, their_static, their_ephemeral)


def respond_kk(prologue: bytes, statics: Statics, message: bytes) -> tuple[bytes, Answering]:
    """Return the payload of message 1 of Noise_KK, and the object that writes its answer.

    Raises:
        ChannelError: ``message`` isn't a message 1 from their key for this key and prologue.
    """
    # -> s
    # <- s
    state = SymmetricState(KK, prologue)
    state.mix_hash(statics.theirs.raw)
    state.mix_hash(statics.ours.public.raw)
    # -> e, es, ss
    their_ephemeral = _read_ephemeral(state, message)
    state.mix_key(statics.ours.exchange(their_ephemeral))
    state.mix_key(statics.product)
    payload = state.decrypt_and_hash(message[KEY_BYTES:])
    return payload, Answering(state, statics.theirs, their_ephemeral)


def _write_ephemeral(state: SymmetricState, random: Random) -> KeyPair:
    ephemeral = KeyPair(random(KEY_BYTES))
    state.mix_hash(ephemeral.public.raw)
    return ephemeral


def _read_ephemeral(state: SymmetricState, message: bytes, payload_at: int = KEY_BYTES) -> PublicKey:
    # The lower bound matters because a shorter message 1 could contain a well-sealed static key of fewer than 32 bytes.
    if not payload_at + TAG_BYTES <= len(message) <= MAX_MESSAGE_BYTES:
        raise unreadable()
    ephemeral = PublicKey(message[:KEY_BYTES])
    state.mix_hash(ephemeral.raw)
    return ephemeral
