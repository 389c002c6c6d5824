"""tkdb's client: mint, narrow, verify, clear and revoke tokens.

::

    from tkdb_client import Access, Client

    tkdb = Client("http://tkdb.flycast", authority="tkdb=tkdbpub_…")      # or from TKDB_URL, TKDB_AUTHORITY

    token = tkdb.mint("acme", action="rw", resource={"app": {"shop": "rw"}}, expires_in_s=3600)  # needs a signer's key
    child = tkdb.narrow(token, action="r", expires_in_s=60)                         # offline

    verified = tkdb.verify(child.text)                                    # raises Denied
    verified.clear(Access(organization="acme", action="r", resource={"app": "shop"}))   # raises Denied, says why
    tkdb.revoke(token)                                                    # durable when it returns

With several URLs, one for each region, a client uses the nearest healthy region (`tkdb_client.calls.regions`).
"""

from tkdb import errors
from tkdb.errors import (
    ConfigurationError,
    Denied,
    OutcomeUnknown,
    Refused,
    TkdbError,
    Unavailable,
)
from tkdb.macaroon import caveats
from tkdb.macaroon.access import ANY, ANY_ORGANIZATION, Access, Policy, Source
from tkdb.macaroon.restrictions import Restrictions
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import CacheInfo
from tkdb_client.calls.regions import Region
from tkdb_client.client import AsyncClient, Client
from tkdb_client.settings import NO_SIGNER
from tkdb_client.verified import Verified

__all__ = [
    "ANY",
    "ANY_ORGANIZATION",
    "NO_SIGNER",
    "Access",
    "AsyncClient",
    "CacheInfo",
    "Client",
    "ConfigurationError",
    "Denied",
    "Macaroon",
    "OutcomeUnknown",
    "Policy",
    "Refused",
    "Region",
    "Restrictions",
    "Source",
    "TkdbError",
    "Unavailable",
    "Verified",
    "caveats",
    "errors",
]
