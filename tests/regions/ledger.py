"""What a cluster has acknowledged, so that tests can see that nothing of it is lost."""

from __future__ import annotations

import os

from tests.regions.cluster import Cluster, until
from tkdb import api, errors
from tkdb_client import Client, Macaroon

TARGETS = 400
"""So many revocations make an entry of about 24 KB: three of them are more than ``recent`` holds."""


class Ledger:
    """Writes to a cluster, and remembers what was acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._organizations: list[str] = []
        self._live: list[Macaroon] = []
        self._dead: list[Macaroon] = []

    def write(self, client: Client, name: str) -> None:
        """Make an organization, a token that lives and one that is revoked."""
        client.create_organization(name)
        self._organizations.append(name)
        self._live.append(client.mint(name))
        dead = client.mint(name)
        client.revoke(dead)
        self._dead.append(dead)

    def fill(self, client: Client, organization: str, entries: int = 4) -> None:
        """Write entries so large that ``recent`` has no room for four of them."""
        token = client.mint(organization)
        for _ in range(entries):
            nonces = [token.nonce[:6] + os.urandom(10) for _ in range(TARGETS)]
            client.revoke_many([api.Lineage(token.kid, nonce) for nonce in nonces])

    @property
    def token(self) -> Macaroon:
        """A token that lives."""
        return self._live[0]

    def assert_kept(self, *names: str) -> None:
        """Every machine, or each of those named, comes to know all that was acknowledged."""
        for name in names or self._cluster.running():
            with self._cluster.nodes[name].client(timeout_ms=20_000) as client:
                until(lambda client=client: self._is_known(client))  # type: ignore[misc]

    def _is_known(self, client: Client) -> bool:
        try:
            known = {organization.name for organization in client.list_organizations()}
            live, dead = client.verify_many(self._live), client.verify_many(self._dead)
        except errors.StaleAuthority:
            return False
        return (
            known.issuperset(self._organizations)
            and not any(isinstance(result, errors.Denied) for result in live)
            and all(isinstance(result, errors.RevokedToken) for result in dead)
        )
