"""Random histories of an authority, compared with a model that knows which tokens must verify."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests import profiles
from tests.authority.world import BOTH_RING, SKEW_MS, World, branch, lineage
from tkdb import api, errors
from tkdb.authority.clock import DRIFT
from tkdb.macaroon.caveats import Act, Aud, Exp, Sub
from tkdb.macaroon.token import Macaroon

MAX_LIFETIME_S = 200_000  # more than two days: revocations are purged in buckets of 4.7 hours
ORGANIZATIONS = ("acme", "evil")
SUBJECTS = ("ann", "bob")


@dataclass
class Token:
    """A token in the model. ``branches``: its own branch and those of its ancestors."""

    macaroon: Macaroon
    organization: str
    subject: str | None
    expires_ms: int
    branches: frozenset[bytes]
    revoked: bool = False

    def attenuated(self, *caveats: Any) -> Token:
        child = self.macaroon.narrow(*caveats)
        return Token(
            child, self.organization, self.subject, self.expires_ms, self.branches | {child.branch}, self.revoked
        )


@dataclass
class Model:
    """All minted tokens. Those that are neither revoked nor expired must verify."""

    tokens: list[Token] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)

    def revoke(self, **scope: Any) -> None:
        """Mark the tokens that match every value of ``scope``."""
        for token in self.tokens:
            if all(self._is(token, name, value) for name, value in scope.items()):
                token.revoked = True

    @staticmethod
    def _is(token: Token, name: str, value: Any) -> bool:
        match name:
            case "organization" | "subject":
                return getattr(token, name) == value
            case "branch":
                return value in token.branches
            case "issued_before_ms":
                return token.macaroon.issued_ms < value
        return getattr(token.macaroon, name) == value


HOUR_MS = 3_600_000
picks = st.integers(0, 10**6)
lifetimes = st.sampled_from((60, 3_600, 100_000, MAX_LIFETIME_S))
names = st.sampled_from(ORGANIZATIONS)


class RandomHistories(RuleBasedStateMachine):
    """An authority on a disk, which may restart, and the model."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="tkdb-machine-"))
        self.world = World(self.folder / "tkdb.db", max_lifetime_s=MAX_LIFETIME_S)
        self.model = Model()
        self.do(self.world.open())
        for name in ORGANIZATIONS:
            self.do(self.world.create(name))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.do(self.world.authority.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def pick(self, number: int) -> Token:
        return self.model.tokens[number % len(self.model.tokens)]

    def live(self, name: str) -> bool:
        return name not in self.model.deleted

    @rule(name=names, subject=st.sampled_from((None, *SUBJECTS)), lifetime_s=lifetimes)
    def mint(self, name: str, subject: str | None, lifetime_s: int) -> None:
        caveats = [] if subject is None else [Sub(subject)]
        try:
            minted = self.do(self.world.mint(name, *caveats, expires_in_s=lifetime_s))
        except errors.NotFound:
            assert not self.live(name)
            return
        except errors.InvalidRequest:
            assert lifetime_s > self.maximum(name)
            return
        assert self.live(name)
        assert lifetime_s <= self.maximum(name)
        [end] = [caveat.at_s for caveat in minted.caveats if isinstance(caveat, Exp)]
        self.model.tokens.append(Token(minted, name, subject, end * 1000, frozenset({minted.branch})))

    def maximum(self, name: str) -> int:
        row = self.world.authority._state.organization(name)
        return int(row.max_lifetime_s)

    @precondition(lambda self: self.model.tokens)
    @rule(number=picks, caveat=st.sampled_from([Act("r"), Act("w"), Aud("shop"), Exp(0)]))
    def attenuate(self, number: int, caveat: Any) -> None:
        parent = self.pick(number)
        if len(parent.branches) < 6:
            child = parent.attenuated(caveat)
            # The same caveat gives the same token again, which may be revoked.
            child.revoked |= any(twin.revoked for twin in self.model.tokens if twin.macaroon == child.macaroon)
            self.model.tokens.append(child)

    @precondition(lambda self: self.model.tokens)
    @rule(number=picks, whole_lineage=st.booleans())
    def revoke(self, number: int, whole_lineage: bool) -> None:
        token = self.pick(number)
        macaroon = token.macaroon
        self.do(self.world.revoke(lineage(macaroon) if whole_lineage else branch(macaroon)))
        if whole_lineage:
            self.model.revoke(lineage=macaroon.lineage)
        else:
            self.model.revoke(branch=macaroon.branch)

    @precondition(lambda self: self.model.tokens)
    @rule(number=picks)
    def revoke_own(self, number: int) -> None:
        token = self.pick(number)
        try:
            self.do(self.world.revoke_own(token.macaroon))
        except errors.Overloaded:
            return
        except (errors.UnknownKey, errors.ExpiredToken):
            assert self.is_revoked_or_expired(token)
            return
        self.model.revoke(branch=token.macaroon.branch)

    @rule(name=names, subject=st.sampled_from((None, *SUBJECTS)), ago_ms=st.none() | st.integers(0, 10**7))
    def revoke_before(self, name: str, subject: str | None, ago_ms: int | None) -> None:
        before_ms = None if ago_ms is None else self.world.wall_ms - ago_ms
        try:
            self.do(self.world.revoke(api.Before(name, before_ms, subject)))
        except errors.NotFound:
            assert not self.live(name)
            return
        scope = {"organization": name} if subject is None else {"organization": name, "subject": subject}
        if before_ms is None:
            self.model.revoke(**scope)
        else:
            self.model.revoke(**scope, issued_before_ms=before_ms + SKEW_MS)

    @precondition(lambda self: self.model.tokens)
    @rule(number=picks)
    def retire(self, number: int) -> None:
        kid = self.pick(number).macaroon.kid
        self.do(self.world.revoke(api.RetireKey(kid)))
        self.model.revoke(kid=kid)

    @rule(name=names)
    def rotate(self, name: str) -> None:
        self.managed(api.RotateKey(name))

    @rule(name=names, maximum_s=lifetimes)
    def configure(self, name: str, maximum_s: int) -> None:
        self.managed(api.ConfigureOrganization(name, maximum_s))

    @rule(name=names, draw=st.integers(0, 7))
    def delete(self, name: str, draw: int) -> None:
        if draw == 0:
            self.managed(api.DeleteOrganization(name))
            self.model.deleted.add(name)
            self.model.revoke(organization=name)

    def managed(self, call: Any) -> None:
        try:
            self.do(self.world.ask(call))
        except errors.NotFound:
            assert not self.live(call.name)

    @rule(by_ms=st.sampled_from((1, 1_000, HOUR_MS, 6 * HOUR_MS, 30 * HOUR_MS)))
    def wait(self, by_ms: int) -> None:
        self.world.advance(by_ms)

    @rule(by_ms=st.integers(-9_000, 9_000))
    def correct_clock(self, by_ms: int) -> None:
        # The corrected clock is at most 9 s before the journal's time, and changes no faster than the allowed drift.
        self.world.advance(DRIFT * abs(by_ms))
        if self.world.wall_ms + by_ms >= self.world.authority._state.head.time_ms - 9_000:
            self.world.step_clock(by_ms)
            # The machine sees each correction before the next one, as it does in its hourly purge.
            self.world.authority._clock.steady_ms(not_before_ms=0)

    @rule()
    def purge(self) -> None:
        self.do(self.world.authority._writer.purge())

    @rule()
    def reseal(self) -> None:
        self.do(self.world.ask(api.Reseal(limit=2)))

    @rule()
    def restart(self) -> None:
        self.do(self.world.restart(seal_keys=BOTH_RING))

    def is_revoked_or_expired(self, token: Token) -> bool:
        return token.revoked or self.world.wall_ms >= token.expires_ms

    @invariant()
    def verification_agrees_with_the_model(self) -> None:
        if not getattr(self, "model", None) or not self.model.tokens:
            return
        texts = [token.macaroon.text for token in self.model.tokens[-api.MAX_BUNDLES :]]
        results = self.do(self.world.ask(api.Verify(texts), None)).results
        for token, result in zip(self.model.tokens[-api.MAX_BUNDLES :], results, strict=True):
            if self.world.wall_ms >= token.expires_ms:
                continue  # clearing denies it by its exp, and its revocation may be purged
            assert isinstance(result, api.Invalid) == token.revoked, (result, token.revoked)


TestRandomHistories = RandomHistories.TestCase
TestRandomHistories.settings = settings(
    max_examples=profiles.CURRENT.lives, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
