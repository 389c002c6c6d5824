"""An authority for an app's own tests: real tokens, real denials, no network, and a clock that the test controls.

>>> from tkdb_client import Access, Policy
>>> from tkdb_client.testing import Authority, Down
>>> authority = Authority()                                      # with the organizations acme and other
>>> client = authority.client(policy=Policy(organization="acme"))  # a real Client: give it to the app
>>> token = authority.mint("acme", action="r", expires_in_s=60)
>>> client.verify(token).clear(Access(action="r"))
>>> authority.clock.advance(61)                                  # seconds, at once
>>> client.verify(token).clear(Access(action="r"))
Traceback (most recent call last):
...
tkdb.errors.ExpiredToken: caveat 1 of 2 (exp 1900000060): expired 1 s ago: ask for a new token
>>> client.verify(authority.mint("other")).clear(Access(action="r"))
Traceback (most recent call last):
...
tkdb.errors.ForeignOrganization: the token belongs to the organization other; the request is for data of acme

>>> token = authority.mint("acme")
>>> with authority.faulty(Down()):                               # at once, without waiting
...     client.verify(token)
Traceback (most recent call last):
...
tkdb.errors.DeadlineExceeded: no answer in time, ...
>>> authority.close()                                            # or: with Authority() as authority

The decisions are production's: ``tkdb.authority`` and ``tkdb.macaroon``, with a journal in a list. Each request is
sealed and opened as on the network (``tkdb.channel``). Only sockets, disks and waiting are left out: a client that
would wait moves the clock forward.

No setting selects it, it listens nowhere, it has its own keys, which are lost with it, and it refuses to run on a Fly
Machine. So its results have no effect outside the process.

``authority``  the authority in a test: it creates clients, mints, revokes, and fails on demand
``book``       the authority itself: its methods, with a journal in a list
``clock``      the test's clock
``driving``    runs a client's calls without sockets and without waiting
``faults``     the faults of the testing network
``network``    the network between clients and the testing authority
"""

from tkdb_client.testing.authority import Authority
from tkdb_client.testing.clock import Clock
from tkdb_client.testing.faults import AnswersLost, Down, Failing, Fault, Silent, Slow, Stale

__all__ = ["AnswersLost", "Authority", "Clock", "Down", "Failing", "Fault", "Silent", "Slow", "Stale"]
