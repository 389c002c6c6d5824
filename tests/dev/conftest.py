"""The fixtures of the server's tests: ``tkdb dev`` is the same server with more routes."""

from tests.server.conftest import log, run, settings, signer, start

__all__ = ["log", "run", "settings", "signer", "start"]
