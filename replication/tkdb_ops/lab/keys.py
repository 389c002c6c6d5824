"""The keys of a lab and the settings of its machines, as an operator makes them for a cluster.

>>> keys = Keys.generate(lambda count: bytes(count))
>>> keys.identity.text().split("=")[0], keys
('tkdb.lab', Keys())
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self, get_args

from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.journal.seal import KEY_BYTES, SealKey
from tkdb.signers import Permission
from tkdb_replication.bucket.settings import Bucket

NAME: Final = "tkdb.lab"
"""The authority's name."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The authority's key, the sealing secret, and a signer with every permission. The repr shows none of them."""

    authority: AuthoritySecret = field(repr=False)
    seal: SealKey = field(repr=False)
    signer: SignerSecret = field(repr=False)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> Self:
        """Generate new keys."""
        return cls(
            AuthoritySecret.generate(random_bytes),
            SealKey(random_bytes(KEY_BYTES)),
            SignerSecret.generate(random_bytes),
        )

    @property
    def identity(self) -> AuthorityIdentity:
        """The authority's name and public key, for clients."""
        return AuthorityIdentity(NAME, (self.authority.public,))

    def settings(self, bucket: Bucket, regions: tuple[str, ...]) -> dict[str, str]:
        """Return the variables of all machines: the keys, the bucket, and the order of regions for promotion."""
        may = ", ".join(f'"{each}"' for each in get_args(Permission))
        signer = f'name = "lab"\nkey = "{self.signer.public.text()}"\norganizations = ["*"]\nmay = [{may}]\n'
        return {
            "TKDB_NAME": NAME,
            "TKDB_AUTHORITY_KEY": self.authority.text(),
            "TKDB_SEAL_KEYS": self.seal.text(),
            "TKDB_SIGNERS": f"[[signer]]\n{signer}",
            "TKDB_PRIMARY_REGIONS": ",".join(regions),
            "BUCKET_NAME": bucket.name,
            "AWS_ENDPOINT_URL_S3": str(bucket.endpoint),
            "AWS_ACCESS_KEY_ID": bucket.credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": bucket.credentials.secret_access_key,
        }
