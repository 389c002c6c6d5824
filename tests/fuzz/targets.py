"""Every target by its name."""

from __future__ import annotations

from tests.fuzz import planted, service_targets, token_targets, web_targets
from tests.fuzz.engine import Outcome, fuzz

_READERS = (*token_targets.TARGETS, *service_targets.TARGETS, *web_targets.TARGETS)
DEFAULT = [target.name for target in _READERS]
TARGETS = {target.name: target for target in (*_READERS, planted.TARGET)}


def fuzz_named(name: str, seconds: float, seed: int) -> Outcome:
    """``fuzz``, to be called in another process: targets don't travel, their names do."""
    return fuzz(TARGETS[name], seconds, seed)
