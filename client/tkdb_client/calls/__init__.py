"""One call to the authority: attempts in rounds, the nearest healthy region, and the limits on retries.

Rules are pure generators that yield effects; a runner carries the effects out, blocking or awaiting.
"""
