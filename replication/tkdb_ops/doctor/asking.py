"""Status requests to a single machine, and the reasons why a machine doesn't report its status.

A client retries until it has an answer. Here the result of each attempt matters: the machine can't open a request that
is sealed to the authority's key, or it refuses a caller without attestation, or its clock is off.

    asker = Asker(identity, now_ms=now_ms, random_bytes=os.urandom)
    match await asker.ask(Url.parse("http://tkdb.flycast"), {"fly-force-instance-id": "148e21"}, timeout_ms=5_000):
        case Answered(report): ...
        case NoAnswer(NoAnswerReason.IDENTITY, why): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from tkdb import api, errors
from tkdb.channel.client import Initiator
from tkdb.channel.envelope import REQUEST_ID_BYTES
from tkdb.channel.keys import AuthorityIdentity
from tkdb.net.url import Url
from tkdb_replication.bucket import http


class NoAnswerReason(StrEnum):
    """Why a machine didn't report its status."""

    UNREACHED = "unreached"
    """The caller got no answer from the authority."""
    IDENTITY = "identity"
    """The machine can't open a request that is sealed to this name and key, or it answers under another key."""
    ATTESTATION = "attestation"
    """The machine answers attested callers only. This caller isn't attested, or isn't allowed."""
    REFUSED = "refused"
    """The machine opened the request and refused it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A machine's report about itself.

    Attributes:
        report: the report, as the machine sent it.
        journal: the journal's id.
        ahead_ms: how far its clock is ahead of this one; negative if it is behind; None if the report has no time.
        within_ms: how far off ``ahead_ms`` may be: half of the round trip.
    """

    report: api.StatusReport
    journal: bytes
    ahead_ms: int | None
    within_ms: int


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The reason why a machine didn't report its status, as a kind and in words."""

    reason: NoAnswerReason
    why: str


class Asker:
    """A caller that asks machines of one authority for their status.

    Args:
        identity: the authority's name and public keys.
        now_ms: the wall clock, ms since 1970.
        random_bytes: the source of keys and request ids.
    """

    def __init__(
        self, identity: AuthorityIdentity, *, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._keys = len(identity.keys)
        self._initiator = Initiator(identity, signer=None, random=random_bytes)
        self._now_ms = now_ms
        self._random_bytes = random_bytes

    async def ask(self, url: Url, headers: Mapping[str, str] | None = None, *, timeout_ms: int) -> Answered | NoAnswer:
        """Ask the machine at ``url`` for its status, with additional ``headers``. Try each of the authority's keys."""
        for key in range(self._keys):
            told, date_ms = await self._ask(url, headers or {}, key, 0, timeout_ms)
            if isinstance(told, NoAnswer) and told.reason is NoAnswerReason.REFUSED and date_ms is not None:
                # Its clock is so far off that the request looks like a replay. Ask again with the machine's own time.
                late_ms = date_ms - self._now_ms()
                told, _ = await self._ask(url, headers or {}, key, late_ms, timeout_ms)
            if not (isinstance(told, NoAnswer) and told.reason is NoAnswerReason.IDENTITY):
                break
        return told

    async def _ask(
        self, url: Url, headers: Mapping[str, str], key: int, by_ms: int, timeout_ms: int
    ) -> tuple[Answered | NoAnswer, int | None]:
        """Make one attempt with a clock that is ``by_ms`` ahead. Return the result, and the answer's Date."""
        sent_ms = self._now_ms()
        sealed = self._initiator.seal(
            api.VERIFY,
            api.encode(api.Status()),
            request_id=self._random_bytes(REQUEST_ID_BYTES),
            now_ms=sent_ms + by_ms,
            key=key,
        )
        sent = {"content-type": "application/octet-stream", **sealed.headers, **headers}
        response = await http.ask("POST", url, api.VERIFY, headers=sent, body=sealed.message, timeout_ms=timeout_ms)
        if isinstance(response, http.NoResponse):
            return NoAnswer(NoAnswerReason.UNREACHED, response.why), None
        if response.status != 200:
            return _plain(response), None
        try:
            answer = api.decode_answer(sealed.open(response.body))
            report = api.decode_result(api.Status(), answer)
        except errors.ChannelError:
            return NoAnswer(NoAnswerReason.IDENTITY, "its answer isn't sealed by the authority's key"), None
        except errors.OutOfTime as error:
            return NoAnswer(NoAnswerReason.REFUSED, error.message), response.date_ms
        except errors.TkdbError as error:
            return NoAnswer(NoAnswerReason.REFUSED, error.message), None
        within_ms = (self._now_ms() - sent_ms + 1) // 2
        ahead_ms = None if report.time_ms is None else report.time_ms - (sent_ms + within_ms)
        return Answered(report, answer.journal, ahead_ms, within_ms), response.date_ms


class _Problem(msgspec.Struct):
    """RFC 9457's problem details: the fields that are used here."""

    type: str = ""
    detail: str = ""


def _plain(response: http.Response) -> NoAnswer:
    """Return the reason that a plain HTTP answer gives. Only sealed answers come from the authority itself."""
    try:
        problem = msgspec.json.decode(response.body, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    kind = problem.type.removeprefix("urn:tkdb:problem:")
    if kind == "handshake":
        return NoAnswer(NoAnswerReason.IDENTITY, "it can't open a request that is sealed to this name and key")
    if kind == "not-attested":
        return NoAnswer(NoAnswerReason.ATTESTATION, problem.detail[:200])
    said = response.headers.get("fly-proxy-error") or problem.detail or ""
    return NoAnswer(NoAnswerReason.UNREACHED, f"a plain HTTP {response.status}{said and f': {said[:200]}'}")
