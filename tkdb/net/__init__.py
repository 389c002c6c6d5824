"""Calling an HTTP service: its URL, connections that end in time, and the wait before a retry.

The client and the replicated authority both stand on this package. It knows nothing of tokens.

``backoff``      The wait before the next attempt
``connections``  Network streams with a deadline, and connections with a maximum age
``names``        Name lookups that end in time, in threads of their own
``pool``         Kept connections to one server: each belongs to one request, or is idle
``url``          The URL of an authority
"""
