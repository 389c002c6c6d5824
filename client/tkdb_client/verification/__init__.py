"""Verification: answer from the cache, or ask the authority once for all callers."""
