"""The doctor's report, with the questions that tests ask about it."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.processes import quick
from tests.fake_fly import APP, TOKEN, FakeFly


class DoctorReport:
    """The document of ``tkdb doctor --json``, and its exit code."""

    def __init__(self, code: int, document: dict[str, Any]) -> None:
        self.code = code
        self.document = document
        self.by_check = {each["check"]: each for each in document["checks"]}

    def outcomes(self, outcome: str) -> set[str]:
        return {name for name, each in self.by_check.items() if each["outcome"] == outcome}

    def failure(self, check: str) -> str:
        """Return the finding of a failed check, which must also have a fix."""
        each = self.by_check[check]
        assert each["outcome"] == "failed", self.document
        assert each["try"], "the failed check has no fix"
        return str(each["found"])

    def unknown(self, check: str) -> str:
        """Return the reason why a requested check has no result."""
        each = self.by_check[check]
        assert each["outcome"] == "unknown", self.document
        return str(each["found"])


def doctor(*arguments: str, **environment: str) -> DoctorReport:
    """Run ``tkdb doctor`` in this process."""
    ran = quick("doctor", "--json", *arguments, env=environment)
    return DoctorReport(ran.code, json.loads(ran.out))


def examine(fly: FakeFly, *arguments: str) -> DoctorReport:
    """Run ``tkdb doctor`` with a token of the fake API. Default: on its app."""
    return doctor(*(arguments or ("--app", APP)), FLY_API_HOSTNAME=fly.url, FLY_API_TOKEN=TOKEN)
