"""The acknowledged writes of a cluster, so that tests can check that none is lost."""

from __future__ import annotations

import os

from tests.regions.cluster import Cluster, until
from tkdb import api, errors
from tkdb_client import Client, Macaroon

TARGETS = 400
"""The number of revocations that make an entry of about 24 KB. ``recent`` doesn't have room for three."""


class Ledger:
    """Writes to a cluster, and remembers the acknowledged writes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._organizations: list[str] = []
        self._live: list[Macaroon] = []
        self._revoked: list[Macaroon] = []

    def write(self, client: Client, name: str) -> None:
        """Create an organization, a live token and a revoked token."""
        client.create_organization(name)
        self._organizations.append(name)
        self._live.append(client.mint(name))
        revoked = client.mint(name)
        client.revoke(revoked)
        self._revoked.append(revoked)

    def fill(self, client: Client, organization: str, entries: int = 4) -> None:
        """Write large entries: ``recent`` doesn't have room for four of them."""
        token = client.mint(organization)
        for _ in range(entries):
            nonces = [token.nonce[:6] + os.urandom(10) for _ in range(TARGETS)]
            client.revoke_many([api.Lineage(token.kid, nonce) for nonce in nonces])

    @property
    def token(self) -> Macaroon:
        """A live token."""
        return self._live[0]

    def assert_kept(self, *names: str) -> None:
        """Wait until every running machine, or each named one, knows all acknowledged writes."""
        for name in names or self._cluster.running():
            with self._cluster.nodes[name].client(timeout_ms=20_000) as client:
                until(lambda client=client: self._is_known(client))  # type: ignore[misc]

    def _is_known(self, client: Client) -> bool:
        try:
            known = {organization.name for organization in client.list_organizations()}
            live, revoked = client.verify_many(self._live), client.verify_many(self._revoked)
        except errors.StaleAuthority:
            return False
        return (
            known.issuperset(self._organizations)
            and not any(isinstance(result, errors.Denied) for result in live)
            and all(isinstance(result, errors.RevokedToken) for result in revoked)
        )
