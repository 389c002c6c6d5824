"""The client: one authority's methods, blocking and awaited.

`Client` blocks, and any number of threads may share it. `AsyncClient` has the same methods, awaited, and any number of
event loops may share it. Both retry errors that a retry can fix, within a deadline, and raise all others at once:
``Denied`` is about the token, ``Refused`` about the request, and ``Unavailable`` about neither (try again).

>>> client = Client("http://tkdb.flycast", "tkdb=tkdbpub_j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiF4KF_abcdef")
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: an authority's public key (tkdbpub_…) was expected, and this one was cut short or \
altered: copy it again
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar, Unpack

from tkdb import api, errors
from tkdb.arguments import Duration
from tkdb.macaroon.caveats import AnyCaveat
from tkdb.macaroon.restrictions import Restrictions
from tkdb.macaroon.token import Macaroon
from tkdb_client.arguments import RequestId, Token, token_text
from tkdb_client.calls.effects import Steps
from tkdb_client.calls.regions import Region
from tkdb_client.calls.runners import AsyncRunner, Runner
from tkdb_client.calls.transport import AsyncTransport, Transport
from tkdb_client.configured import Configured
from tkdb_client.verified import Verified

T = TypeVar("T")


class Client(Configured[Runner]):
    """One authority's methods, blocking. Threads may share a client. Create one and keep it, because it keeps
    connections.

    Every method that asks the authority may raise ``Unavailable`` (no answer in time), its subclass ``StaleAuthority``
    (no machine could prove that its data is fresh enough), ``Refused`` (the authority refuses the request), and
    ``ConfigurationError`` (the call needs a signer's key, or the client is closed).

    An argument that can't be meant (a wrong type, an empty text or list, a number out of range) raises
    ``ConfigurationError`` before anything is sent, or ``InvalidCaveat`` if it restricts a token. The message names the
    argument. ``None`` always means "not given".

    Every write takes ``request_id``: 16 random bytes that you choose, or the ones that an ``OutcomeUnknown`` carries. A
    signer's write with a known id is done only once, whichever process repeats it, and its first outcome is returned.
    """

    def _new_driver(self) -> Runner:
        return Runner(Transport())

    def _run(self, steps: Steps[T]) -> T:
        return self._driver.run(steps)

    def verify(self, token: Token) -> Verified:
        """Return the verified token. Clear it against each access.

        A cached token, or a descendant of one, is answered at once: see ``docs/client.md``.

        Args:
            token: a token, a bundle's text, or the value of an Authorization header.

        Raises:
            Denied: the subclass is the reason. A token that can't be read is denied locally, without a request.
        """
        known = self._cache.get(token if isinstance(token, str) else token_text(token))
        return self._run(self._operations.verify(token)) if known is None else known

    def verify_many(self, tokens: Iterable[Token]) -> list[Verified | errors.Denied | errors.StaleAuthority]:
        """Return the verified token or the denial of each, in order. It is much cheaper than separate calls.

        A result is the ``Verified`` token, or the error of this one token: ``Denied``, or ``StaleAuthority`` (try
        again) if it isn't cached while no machine can be asked. ``Unavailable`` is raised only if none of them is
        cached, or was. An empty list has an empty result.
        """
        return self._run(self._operations.verify_many(tokens))

    def mint(
        self,
        organization: str,
        *caveats: AnyCaveat,
        subject: str | None = None,
        expires_in_s: Duration | None = None,
        **restrictions: Unpack[Restrictions],
    ) -> Macaroon:
        """Mint a token. Its ``text`` is the secret to hand out.

        Args:
            organization: the token's organization.
            caveats: more caveats, after those of the other arguments.
            subject: the subject that it is minted for.
            expires_in_s: its lifetime, in seconds or as a ``timedelta``, at most the organization's maximum. Default:
                an hour, or that maximum if it is shorter.
            restrictions: ``action``, ``resource``, ``prefix``, ``otherwise``, ``audience``, ``ip``, ``method`` and
                ``path``, as in ``narrow``: see ``tkdb_client.Restrictions``.

        Raises:
            InvalidCaveat: an argument isn't a valid caveat.
            NotPermitted, NotFound: the signer may not mint for the organization, or there is none.
        """
        return self._run(
            self._operations.mint(organization, caveats, subject=subject, expires_in_s=expires_in_s, given=restrictions)
        )

    def revoke(self, token: Token, *, request_id: RequestId | None = None) -> bool:
        """Revoke a token and all its descendants. Return True if that had been done before.

        When it returns, the revocation is durable: no crash revives the token. If a signer gives a token as it was
        minted, its lineage is revoked. For any other token, exactly its branch is revoked. Without a signer's key,
        possession is enough, and exactly this token's branch is revoked.

        Raises:
            OutcomeUnknown: it was sent, and the outcome is unknown. It is safe to revoke again, with or without its
                request id.
        """
        return self._run(self._operations.revoke(token, request_id))

    def revoke_many(self, targets: Iterable[Token | api.Target], *, request_id: RequestId | None = None) -> bool:
        """Revoke many tokens or targets, at least one. Return True if all had been revoked before.

        They are sent in as few requests as their size allows. Of one request, all are revoked, or none.
        """
        return self._run(self._operations.revoke_many(targets, request_id))

    def revoke_before(
        self,
        organization: str,
        *,
        before_ms: int | None = None,
        subject: str | None = None,
        request_id: RequestId | None = None,
    ) -> bool:
        """Revoke everything of an organization, or of one subject in it, that was issued before a time.

        Args:
            organization: the tokens' organization.
            before_ms: the time, in ms since 1970. Default: now.
            subject: only the tokens minted for this subject.
        """
        return self._run(self._operations.revoke_before(organization, before_ms, subject, request_id))

    def retire_key(self, kid: bytes, *, request_id: RequestId | None = None) -> bool:
        """Revoke every token under a root key (its kid: 16 bytes). A signing key is replaced in the same step."""
        return self._run(self._operations.retire_key(kid, request_id))

    def revocations(self, kids: Iterable[bytes], *, after: int = 0, wait_ms: int | timedelta = 0) -> api.Feed:
        """Return the revocations that affect the keys ``kids``, after a position.

        Args:
            kids: root keys' names, 16 bytes each.
            after: the position of the last answer.
            wait_ms: the longest wait for new revocations, in milliseconds or as a ``timedelta``.
        """
        return self._run(self._operations.revocations(kids, after=after, wait_ms=wait_ms))

    def create_organization(
        self, name: str, *, max_lifetime_s: Duration | None = None, request_id: RequestId | None = None
    ) -> api.Organization:
        """Create an organization with its first root key.

        Args:
            name: 1 to 63 of ``a-z0-9._-``.
            max_lifetime_s: the longest lifetime of its tokens, in seconds or as a ``timedelta``. Default: 90 days.
            request_id: see the class.

        Raises:
            Conflict: there is, or was, an organization with this name.
        """
        return self._run(self._operations.create_organization(name, max_lifetime_s, request_id))

    def configure_organization(
        self, name: str, *, max_lifetime_s: Duration, request_id: RequestId | None = None
    ) -> api.Organization:
        """Change the longest lifetime of tokens, for tokens minted from now on."""
        return self._run(self._operations.configure_organization(name, max_lifetime_s, request_id))

    def rotate_key(self, name: str, *, request_id: RequestId | None = None) -> api.Organization:
        """Mint under a new root key. The old one verifies until its last token has expired."""
        return self._run(self._operations.rotate_key(name, request_id))

    def delete_organization(self, name: str, *, request_id: RequestId | None = None) -> None:
        """Retire every key of an organization, permanently. Its name is never used again."""
        self._run(self._operations.delete_organization(name, request_id))

    def list_organizations(self) -> Iterator[api.Organization]:
        """Iterate over the organizations that the signer may act for, by name."""
        after, more = "", True
        while more:
            page = self._run(self._operations.organizations(after))
            yield from page.organizations
            more = page.more and bool(page.organizations)
            after = page.organizations[-1].name if more else ""

    def reseal(
        self, progress: Callable[[api.Resealed], None] | None = None, *, request_id: RequestId | None = None
    ) -> int:
        """Seal every record of an older sealing secret again, with the first one. Return the number of records.

        Args:
            progress: called after each step, of at most 256 records.
        """
        return self._run(self._operations.reseal(progress, request_id))

    def restore(
        self, *, seq: int | None = None, at_ms: int | None = None, request_id: RequestId | None = None
    ) -> api.Restored:
        """Restore all organizations and keys to their state after one entry of the journal.

        Organizations and keys made since then are gone permanently. Later revocations, retirements and deletions stay.

        Args:
            seq: the entry's position.
            at_ms: or a time, in ms since 1970: the last entry up to it.

        Raises:
            InvalidRequest: there is no such entry, or one entry can't undo that much.
        """
        return self._run(self._operations.restore(seq, at_ms, request_id))

    def status(self) -> api.StatusReport:
        """Return the status of the machine that answers."""
        return self._run(self._operations.status())

    def regions(self) -> list[Region]:
        """Return the status of every region, in the order in which a read would use them, the nearest first.

        All are asked concurrently. A region that doesn't answer is in the list, with the reason. With a single URL, the
        machine that answers is the one region.
        """
        return self._operations.nearest_first(self._driver.run_all(self._operations.survey()))

    def hand_over(self, machine: str) -> None:
        """Make the primary publish its entries and hand over to ``machine``. Any machine may receive the request.

        When it returns, no machine is primary, and ``machine`` is next: ``status`` shows when it is primary. If it
        doesn't take over, a lease runs out, and another machine does. No acknowledged write is lost either way.

        Raises:
            NoPrimary: no machine is primary, and none became primary in time.
            OutcomeUnknown: it was sent, and the outcome is unknown: check ``status``. The journal keeps no record of
                it, so a repeated request may move the primary again, to the same machine, which is harmless.
        """
        self._run(self._operations.hand_over(machine))

    def take_over(self) -> api.TakenOver:
        """Make the machine that receives the request primary, at once, and without asking the current primary.

        The URL must lead to that machine alone. No acknowledged write is lost. Writes in progress at the old primary
        end as ``OutcomeUnknown``. It is safe to repeat: a machine that is already primary stays primary.

        Raises:
            NoPrimary: it could not take over in time.
        """
        return self._run(self._operations.take_over())

    def close(self) -> None:
        """Close its connections. Calls in progress in other threads fail."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Configured[AsyncRunner]):
    """One authority's methods, awaited. Any number of asyncio's event loops may use it, one after the other or in
    several threads. Each has its own connections."""

    def _new_driver(self) -> AsyncRunner:
        return AsyncRunner(AsyncTransport())

    async def _run(self, steps: Steps[T]) -> T:
        return await self._driver.run(steps)

    async def verify(self, token: Token) -> Verified:
        """As ``Client.verify``."""
        known = self._cache.get(token if isinstance(token, str) else token_text(token))
        return await self._run(self._operations.verify(token)) if known is None else known

    async def verify_many(self, tokens: Iterable[Token]) -> list[Verified | errors.Denied | errors.StaleAuthority]:
        """As ``Client.verify_many``."""
        return await self._run(self._operations.verify_many(tokens))

    async def mint(
        self,
        organization: str,
        *caveats: AnyCaveat,
        subject: str | None = None,
        expires_in_s: Duration | None = None,
        **restrictions: Unpack[Restrictions],
    ) -> Macaroon:
        """As ``Client.mint``."""
        return await self._run(
            self._operations.mint(organization, caveats, subject=subject, expires_in_s=expires_in_s, given=restrictions)
        )

    async def revoke(self, token: Token, *, request_id: RequestId | None = None) -> bool:
        """As ``Client.revoke``."""
        return await self._run(self._operations.revoke(token, request_id))

    async def revoke_many(self, targets: Iterable[Token | api.Target], *, request_id: RequestId | None = None) -> bool:
        """As ``Client.revoke_many``."""
        return await self._run(self._operations.revoke_many(targets, request_id))

    async def revoke_before(
        self,
        organization: str,
        *,
        before_ms: int | None = None,
        subject: str | None = None,
        request_id: RequestId | None = None,
    ) -> bool:
        """As ``Client.revoke_before``."""
        return await self._run(self._operations.revoke_before(organization, before_ms, subject, request_id))

    async def retire_key(self, kid: bytes, *, request_id: RequestId | None = None) -> bool:
        """As ``Client.retire_key``."""
        return await self._run(self._operations.retire_key(kid, request_id))

    async def revocations(self, kids: Iterable[bytes], *, after: int = 0, wait_ms: int | timedelta = 0) -> api.Feed:
        """As ``Client.revocations``."""
        return await self._run(self._operations.revocations(kids, after=after, wait_ms=wait_ms))

    async def create_organization(
        self, name: str, *, max_lifetime_s: Duration | None = None, request_id: RequestId | None = None
    ) -> api.Organization:
        """As ``Client.create_organization``."""
        return await self._run(self._operations.create_organization(name, max_lifetime_s, request_id))

    async def configure_organization(
        self, name: str, *, max_lifetime_s: Duration, request_id: RequestId | None = None
    ) -> api.Organization:
        """As ``Client.configure_organization``."""
        return await self._run(self._operations.configure_organization(name, max_lifetime_s, request_id))

    async def rotate_key(self, name: str, *, request_id: RequestId | None = None) -> api.Organization:
        """As ``Client.rotate_key``."""
        return await self._run(self._operations.rotate_key(name, request_id))

    async def delete_organization(self, name: str, *, request_id: RequestId | None = None) -> None:
        """As ``Client.delete_organization``."""
        await self._run(self._operations.delete_organization(name, request_id))

    async def list_organizations(self) -> AsyncIterator[api.Organization]:
        """As ``Client.list_organizations``."""
        after, more = "", True
        while more:
            page = await self._run(self._operations.organizations(after))
            for organization in page.organizations:
                yield organization
                after = organization.name
            more = page.more and bool(page.organizations)

    async def reseal(
        self, progress: Callable[[api.Resealed], None] | None = None, *, request_id: RequestId | None = None
    ) -> int:
        """As ``Client.reseal``."""
        return await self._run(self._operations.reseal(progress, request_id))

    async def restore(
        self, *, seq: int | None = None, at_ms: int | None = None, request_id: RequestId | None = None
    ) -> api.Restored:
        """As ``Client.restore``."""
        return await self._run(self._operations.restore(seq, at_ms, request_id))

    async def status(self) -> api.StatusReport:
        """As ``Client.status``."""
        return await self._run(self._operations.status())

    async def regions(self) -> list[Region]:
        """As ``Client.regions``."""
        return self._operations.nearest_first(await self._driver.run_all(self._operations.survey()))

    async def hand_over(self, machine: str) -> None:
        """As ``Client.hand_over``."""
        await self._run(self._operations.hand_over(machine))

    async def take_over(self) -> api.TakenOver:
        """As ``Client.take_over``."""
        return await self._run(self._operations.take_over())

    async def close(self) -> None:
        """Close its connections. Calls in progress fail."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
