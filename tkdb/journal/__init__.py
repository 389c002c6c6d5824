"""The journal: entries, the chain that links them, what they add up to, and the feed of revocations.

The whole package is pure.
"""
