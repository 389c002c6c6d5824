"""The operations of a client: each method's request, and its use of the answer. Pure: a method is a generator of
effects.

`tkdb_client.client` gives these methods to apps, blocking and awaited, and documents them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import count
from typing import TypeVar

from tkdb import api, errors
from tkdb.arguments import Duration, milliseconds, whole
from tkdb.macaroon import restrictions
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import AnyCaveat, encode
from tkdb.macaroon.restrictions import Restrictions
from tkdb.macaroon.token import Macaroon
from tkdb_client import arguments
from tkdb_client.arguments import RequestId, Token
from tkdb_client.cache.cache import Cache
from tkdb_client.calls.call import Calls
from tkdb_client.calls.effects import Steps
from tkdb_client.calls.regions import Region
from tkdb_client.verification.batches import batches
from tkdb_client.verification.verification import Verification
from tkdb_client.verified import Verified

T = TypeVar("T")

MOVE_MS = 8_000
"""How long the authority may take to move the primary. If an answer comes later, the call is repeated."""


class Operations:
    """The methods of one authority.

    Args:
        exchange: makes the calls.
        verification: verifies with the cache and the authority.
        cache: learns at once about this client's own revocations.
    """

    def __init__(self, exchange: Calls, verification: Verification, cache: Cache) -> None:
        self._exchange = exchange
        self._verification = verification
        self._cache = cache

    def verify(self, token: Token) -> Steps[Verified]:
        """Return the verified token, or raise its denial."""
        return (yield from self._verification.verify(_bundle(arguments.token(token))))

    def verify_many(self, tokens: Iterable[Token]) -> Steps[list[Verified | errors.Denied | errors.StaleAuthority]]:
        """Deny tokens that can't be read locally, and verify the others."""
        read = [_read(token) for token in arguments.tokens(tokens)]
        results = yield from self._verification.verify_many([each for each in read if isinstance(each, Bundle)])
        answered = iter(results)
        return [next(answered) if isinstance(each, Bundle) else each for each in read]

    def mint(
        self,
        organization: str,
        caveats: Iterable[AnyCaveat],
        *,
        subject: str | None,
        expires_in_s: Duration | None,
        given: Restrictions,
    ) -> Steps[Macaroon]:
        """Mint a token. Caveats from arguments come first, facts before restrictions."""
        cids = [encode(caveat) for caveat in restrictions.minted(given, subject, caveats)]
        if len(cids) > api.MAX_CAVEATS:
            raise errors.OverLimit(f"the token would have {len(cids)} caveats; {api.MAX_CAVEATS} are minted at most")
        call = api.Mint(
            organization=arguments.organization(organization),
            caveats=cids,
            expires_in_s=restrictions.lifetime_s(expires_in_s),
        )
        minted = yield from self._result(api.SIGN, call)
        return Macaroon.parse(minted.token)

    def revoke(self, token: Token, request_id: RequestId | None) -> Steps[bool]:
        """Revoke a token. A signer names it, and any other caller presents it."""
        macaroon = _bundle(arguments.token(token)).root
        if self._exchange.is_signer:
            return (yield from self.revoke_many([macaroon], request_id))
        branch = api.Branch(macaroon.kid, macaroon.nonce, macaroon.branch)
        call, call_id = api.RevokeOwn(token=macaroon.text), arguments.request_id(request_id)
        revoked = yield from self._revoking(api.REVOKE, call, [branch], call_id)
        return revoked.already

    def revoke_many(self, targets: Iterable[Token | api.Target], request_id: RequestId | None) -> Steps[bool]:
        """Revoke targets, in as few journal entries as the messages' size allows."""
        wanted = [_target(target) for target in arguments.targets(targets)]
        calls = [arguments.readable(api.WRITE, api.Revoke(targets=batch)) for batch in target_batches(wanted)]
        call_id = arguments.request_id(request_id) or self._exchange.new_request_id()
        already = True
        for part, call in enumerate(calls):
            revoked = yield from self._revoking(api.WRITE, call, call.targets, call_id, part)
            already = already and revoked.already
        return already

    def revoke_before(
        self, organization: str, before_ms: int | None, subject: str | None, request_id: RequestId | None
    ) -> Steps[bool]:
        """Revoke everything of an organization, or of one subject in it, that was issued before a time."""
        target = api.Before(
            organization=arguments.organization(organization),
            before_ms=arguments.count("before_ms", before_ms, hint="pass milliseconds since 1970"),
            subject=arguments.subject(subject),
        )
        return (yield from self.revoke_many([target], request_id))

    def retire_key(self, kid: bytes, request_id: RequestId | None) -> Steps[bool]:
        """Revoke every token under a root key."""
        return (yield from self.revoke_many([api.RetireKey(kid=arguments.kid(kid))], request_id))

    def revocations(self, kids: Iterable[bytes], *, after: int, wait_ms: int | timedelta) -> Steps[api.Feed]:
        """Return one page of the feed."""
        call = api.Revocations(
            kids=arguments.kids(kids),
            after=whole("after", after, least=0, hint="pass the position of the last answer"),
            wait_ms=milliseconds("wait_ms", wait_ms, least=0, most=api.MAX_WAIT_MS),
        )
        return (yield from self._result(api.VERIFY, call, wait_ms=call.wait_ms))

    def status(self) -> Steps[api.StatusReport]:
        """Return the status of the machine that answers."""
        return (yield from self._result(api.VERIFY, api.Status()))

    def survey(self) -> list[Steps[Region]]:
        """Return, for each region, the effects that ask for its status."""
        return self._exchange.survey()

    def nearest_first(self, found: Sequence[Region]) -> list[Region]:
        """Return the regions in the order in which a read would use them now."""
        return self._exchange.nearest_first(found)

    def create_organization(
        self, name: str, max_lifetime_s: Duration | None, request_id: RequestId | None
    ) -> Steps[api.Organization]:
        """Create an organization with its first root key."""
        longest_s = None if max_lifetime_s is None else arguments.max_lifetime_s(max_lifetime_s)
        call = api.CreateOrganization(name=arguments.organization(name, "name"), max_lifetime_s=longest_s)
        return (yield from self._write(call, request_id))

    def configure_organization(
        self, name: str, max_lifetime_s: Duration, request_id: RequestId | None
    ) -> Steps[api.Organization]:
        """Configure an organization, for tokens minted from now on."""
        longest_s = arguments.max_lifetime_s(max_lifetime_s)
        call = api.ConfigureOrganization(name=arguments.organization(name, "name"), max_lifetime_s=longest_s)
        return (yield from self._write(call, request_id))

    def rotate_key(self, name: str, request_id: RequestId | None) -> Steps[api.Organization]:
        """Rotate the key. The old key continues to verify."""
        return (yield from self._write(api.RotateKey(name=arguments.organization(name, "name")), request_id))

    def delete_organization(self, name: str, request_id: RequestId | None) -> Steps[None]:
        """Delete an organization, permanently."""
        deletion = api.DeleteOrganization(name=arguments.organization(name, "name"))
        yield from self._revoking(api.WRITE, deletion, [deletion], arguments.request_id(request_id))

    def organizations(self, after: str) -> Steps[api.Organizations]:
        """Return one page of the list."""
        return (yield from self._result(api.SIGN, api.ListOrganizations(after=after)))

    def reseal(self, progress: Callable[[api.Resealed], None] | None, request_id: RequestId | None) -> Steps[int]:
        """Reseal records until none remains."""
        arguments.callback("progress", progress)
        call_id = arguments.request_id(request_id) or self._exchange.new_request_id()
        resealed = 0
        for part in count():
            step = yield from self._result(api.WRITE, api.Reseal(), request_id=call_id, part=part)
            resealed += step.resealed
            if progress is not None:
                progress(step)
            if not step.remaining:
                break
            if not step.resealed:
                raise errors.Unavailable(
                    f"{step.remaining:,} records could not be resealed", hint="see the server's log"
                )
        return resealed

    def hand_over(self, machine: str) -> Steps[None]:
        """Hand over. Any machine passes the request on to the primary."""
        yield from self._result(api.WRITE, api.HandOver(machine=arguments.machine(machine)), wait_ms=MOVE_MS)

    def take_over(self) -> Steps[api.TakenOver]:
        """Take over. The request isn't passed on: it is for the machine that receives it."""
        if self._exchange.count > 1:
            raise errors.ConfigurationError("only one machine can take over", hint="create a client with its URL alone")
        return (yield from self._result(api.SIGN, api.TakeOver(), wait_ms=MOVE_MS))

    def restore(self, seq: int | None, at_ms: int | None, request_id: RequestId | None) -> Steps[api.Restored]:
        """Restore the state after one entry."""
        call = api.Restore(
            seq=arguments.count("seq", seq, hint="pass the position of an entry"),
            at_ms=arguments.count("at_ms", at_ms, hint="pass milliseconds since 1970"),
        )
        if (seq is None) == (at_ms is None):
            raise errors.ConfigurationError("exactly one of seq and at_ms is expected", hint="pass one of them")
        try:
            return (yield from self._write(call, request_id))
        finally:
            self._cache.clear()

    def _write(self, call: api.Call[T], request_id: RequestId | None) -> Steps[T]:
        return (yield from self._result(api.WRITE, call, request_id=arguments.request_id(request_id)))

    def _revoking(
        self,
        path: str,
        call: api.Call[T],
        targets: Sequence[api.Target | api.DeleteOrganization],
        request_id: bytes | None,
        part: int = 0,
    ) -> Steps[T]:
        """Make a call that revokes ``targets``. Whatever its outcome, they are dropped from the cache."""
        told = None
        try:
            result, told = yield from self._exchange.ask(path, call, request_id=request_id, part=part)
        finally:
            self._cache.revoked_here(targets, told)
        return result

    def _result(
        self, path: str, call: api.Call[T], *, wait_ms: int = 0, request_id: bytes | None = None, part: int = 0
    ) -> Steps[T]:
        result, _ = yield from self._exchange.ask(path, call, wait_ms=wait_ms, request_id=request_id, part=part)
        return result


def _bundle(token: Token) -> Bundle:
    """Return the bundle in a token, a bundle's text, or the value of an Authorization header."""
    if isinstance(token, Macaroon):
        return Bundle(token)
    text = token.strip()
    return Bundle.from_header(text) if text[:7].lower() == "bearer " else Bundle.parse(text)


def _read(token: Token) -> Bundle | errors.Denied:
    try:
        return _bundle(token)
    except errors.Denied as denied:
        return denied


def target_batches(targets: Sequence[api.Target]) -> Iterator[list[api.Target]]:
    """Yield targets in runs that fit one request, and one message of the feed.

    For a target that is revoked by its time, the feed also names the keys. With them, half as many always fit.
    """
    most = api.MAX_TARGETS // 2 if any(isinstance(each, api.Before) for each in targets) else api.MAX_TARGETS
    return batches(targets, lambda each: len(api.encode(each)), most)


def _target(target: Token | api.Target) -> api.Target:
    """Return the target for a token that a signer revokes: the lineage of a minted one, the branch of an attenuated
    one."""
    if not isinstance(target, Macaroon | str):
        return target
    macaroon = _bundle(target).root
    if macaroon.minted:
        return api.Lineage(kid=macaroon.kid, nonce=macaroon.nonce)
    return api.Branch(kid=macaroon.kid, nonce=macaroon.nonce, branch=macaroon.branch)
