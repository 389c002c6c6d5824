"""Verified tokens, and the revocations that invalidate them.

The cache stores only that a chain is valid. Callers clear caveats on each access.

``cache``          The verification cache: the authority's results, kept while they are provably still true
``denials``        Final denials, kept for a short time: a repeated bad bundle is denied without a request
``entries``        The cache's entries: valid chains, found by lineage, and by the text of a token or its beginning
``in_flight``      News during requests in flight
``matching``       Matching: whether a revocation of the feed covers a token
``subscriptions``  The root keys whose revocations the client follows: the position of each, and the age of its data
"""
