"""One machine of a replicated authority: it runs the protocol, and serves.

This is `tkdb serve` with a bucket.
"""
