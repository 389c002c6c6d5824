"""Verified tokens, and the revocations that invalidate them."""
