"""All targets by name."""

from __future__ import annotations

from tests.fuzz import planted, service_targets, token_targets, web_targets
from tests.fuzz.engine import Outcome, fuzz

_READERS = (*token_targets.TARGETS, *service_targets.TARGETS, *web_targets.TARGETS)
DEFAULT = [target.name for target in _READERS]
TARGETS = {target.name: target for target in (*_READERS, planted.TARGET)}


def fuzz_named(name: str, seconds: float, seed: int) -> Outcome:
    """Fuzz the target with this name. Another process can be given a name, but not a target."""
    return fuzz(TARGETS[name], seconds, seed)
