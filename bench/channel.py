"""A bench of both sides of a handshake, IK and KK, compared with ``noiseprotocol`` in the same run.

One round is one whole exchange by each contender, one after the other, with 600 bytes each way. The initiator's time is
the time to write message 1 and to read message 2. The responder's is the time to read message 1 and to write message 2.

- ``tkdb`` is all work of the channel: envelope, padding, headers, and on KK making or checking a signature.
- ``tkdb, Noise alone`` is the same work as that of ``noiseprotocol``: the handshake around a payload.
- ``noiseprotocol`` gets its static keys as objects that are made before. Its own interface would make them each time.

Run ``python -m bench.channel [--json] [--rounds N]``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median
from time import perf_counter

from noise.backends.default.keypairs import KeyPair25519
from noise.connection import NoiseConnection

from bench.rows import Row, arguments, emit
from tkdb.channel import noise
from tkdb.channel.client import Initiator
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.channel.server import Responder

PAYLOAD = os.urandom(600)
PROLOGUE = b"tkdb channel 1"
NAME = "tkdb.example"
NOW_MS = 1_700_000_000_000
PATHS = {"IK": "/v1/verify", "KK": "/v1/sign"}

Start = Callable[[], tuple[bytes, Callable[[bytes], bytes]]]
"""A function that writes message 1. It returns the message, and the function that reads message 2."""

Answer = Callable[[bytes], bytes]
"""A function that reads message 1 and returns message 2."""

AUTHORITY, SIGNER = AuthoritySecret.generate(os.urandom), SignerSecret.generate(os.urandom)


def whole(pattern: str) -> tuple[Start, Answer]:
    """Return both sides with all work that the channel does for a request."""
    path = PATHS[pattern]
    identity = AuthorityIdentity(NAME, (AUTHORITY.public,))
    initiator = Initiator(identity, signer=SIGNER, random=os.urandom)
    responder = Responder(NAME, [AUTHORITY], [SIGNER.public], random=os.urandom)
    headers = initiator.seal(path, PAYLOAD, request_id=bytes(16), now_ms=NOW_MS).headers

    def start() -> tuple[bytes, Callable[[bytes], bytes]]:
        sealed = initiator.seal(path, PAYLOAD, request_id=os.urandom(16), now_ms=NOW_MS)
        return sealed.message, sealed.open

    def answer(message: bytes) -> bytes:
        return responder.open(path, headers, message).seal(PAYLOAD)

    return start, answer


def alone(pattern: str) -> tuple[Start, Answer]:
    """Return both sides of our handshake around a payload, and nothing else."""
    initiating = noise.Statics(SIGNER.pair, AUTHORITY.pair.public)
    responding = noise.Statics(AUTHORITY.pair, SIGNER.pair.public)

    def start() -> tuple[bytes, Callable[[bytes], bytes]]:
        initiate = noise.initiate_ik if pattern == "IK" else noise.initiate_kk
        message, waiting = initiate(PROLOGUE, initiating, PAYLOAD, os.urandom)
        return message, waiting.read

    def answer(message: bytes) -> bytes:
        if pattern == "IK":
            _, answering = noise.respond_ik(PROLOGUE, AUTHORITY.pair, message)
        else:
            _, answering = noise.respond_kk(PROLOGUE, responding, message)
        return answering.write(PAYLOAD, os.urandom)

    return start, answer


def peer(pattern: str) -> tuple[Start, Answer]:
    """Return both sides of the same handshake by ``noiseprotocol``."""
    ours, theirs = (KeyPair25519.from_private_bytes(os.urandom(32)) for _ in range(2))
    our_public, their_public = (KeyPair25519.from_public_bytes(pair.public_bytes) for pair in (ours, theirs))

    def connect(static: KeyPair25519, remote: KeyPair25519 | None) -> NoiseConnection:
        connection = NoiseConnection.from_name(f"Noise_{pattern}_25519_ChaChaPoly_SHA256".encode())
        connection.set_prologue(PROLOGUE)
        connection.noise_protocol.keypairs["s"] = static
        if remote is not None:
            connection.noise_protocol.keypairs["rs"] = remote
        return connection

    def start() -> tuple[bytes, Callable[[bytes], bytes]]:
        connection = connect(ours, their_public)
        connection.set_as_initiator()
        connection.start_handshake()
        return bytes(connection.write_message(PAYLOAD)), connection.read_message

    def answer(message: bytes) -> bytes:
        connection = connect(theirs, our_public if pattern == "KK" else None)
        connection.set_as_responder()
        connection.start_handshake()
        connection.read_message(message)
        return bytes(connection.write_message(PAYLOAD))

    return start, answer


def exchange(start: Start, answer: Answer) -> tuple[float, float]:
    """Return the seconds that the initiator and the responder took for one exchange."""
    began = perf_counter()
    message_1, read = start()
    sent = perf_counter()
    message_2 = answer(message_1)
    answered = perf_counter()
    payload = read(message_2)
    ended = perf_counter()
    assert payload == PAYLOAD
    return sent - began + ended - answered, answered - sent


def measure(rounds: int) -> list[Row]:
    """Return each contender's minimum and median on each side, in milliseconds."""
    makers = {"tkdb": whole, "tkdb, Noise alone": alone, "noiseprotocol": peer}
    contenders = {(pattern, who): make(pattern) for pattern in PATHS for who, make in makers.items()}
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in contenders}
    for _ in range(rounds):
        for key, (start, answer) in contenders.items():
            seconds[key].append(exchange(start, answer))
    rows = []
    for suffix, summary in (("", min), (", median", median)):
        for column, side in ((1, "responder"), (0, "initiator")):
            for (pattern, who), pairs in seconds.items():
                took_ms = 1000 * summary(pair[column] for pair in pairs)
                rows.append(Row(side + suffix, pattern, who, round(took_ms, 4), "ms"))
    return rows


def main() -> None:
    """Measure, and print."""
    parser = arguments("Measure both sides of a handshake, compared with noiseprotocol.")
    parser.add_argument("--rounds", type=int, default=1000, help="exchanges by each contender. Default: 1000")
    options = parser.parse_args()
    emit(measure(options.rounds), "A handshake with 600 bytes each way (minimum; median below)", options.json)


if __name__ == "__main__":
    main()
