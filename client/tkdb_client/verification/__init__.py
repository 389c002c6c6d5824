"""Verification: the cache answers if it can, or the authority is asked once for all callers.

It follows the feed of revocations for as long as the cache is in use.

``batches``        Batches: many items in as few requests as their size allows
``feed_follower``  The follower of the feed: it passes the feed's news to the cache, for as long as the cache is in use
``rate_limit``     The rate limit of requests about one lineage
``single_flight``  Single flight: concurrent identical requests share one
``verification``   Verification: the cache answers if it can, and the authority is asked about the rest
"""
