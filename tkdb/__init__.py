"""tkdb, an isolated token authority: it holds root keys of macaroons, and mints, verifies and revokes."""

__version__ = "0.1.0"
