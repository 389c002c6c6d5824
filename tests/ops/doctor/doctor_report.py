"""What the doctor said, as tests ask it."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.processes import quick
from tests.fake_fly import APP, TOKEN, FakeFly


class Examined:
    """The document of ``tkdb doctor --json``, and its exit code."""

    def __init__(self, code: int, document: dict[str, Any]) -> None:
        self.code = code
        self.document = document
        self.by_check = {each["check"]: each for each in document["checks"]}

    def outcomes(self, outcome: str) -> set[str]:
        return {name for name, each in self.by_check.items() if each["outcome"] == outcome}

    def found(self, check: str) -> str:
        """What was found by a check that failed. What to do is said beside it."""
        each = self.by_check[check]
        assert each["outcome"] == "failed", self.document
        assert each["try"], "nothing is said of what to do"
        return str(each["found"])

    def unlearned(self, check: str) -> str:
        """Why a check couldn't be made that was to be."""
        each = self.by_check[check]
        assert each["outcome"] == "unknown", self.document
        return str(each["found"])


def doctor(*arguments: str, **environment: str) -> Examined:
    """Run ``tkdb doctor`` in this process."""
    ran = quick("doctor", "--json", *arguments, env=environment)
    return Examined(ran.code, json.loads(ran.out))


def examine(fly: FakeFly, *arguments: str) -> Examined:
    """Run ``tkdb doctor`` with a token of Fly's; by default on its app."""
    return doctor(*(arguments or ("--app", APP)), FLY_API_HOSTNAME=fly.url, FLY_API_TOKEN=TOKEN)
