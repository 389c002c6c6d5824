"""Commands that permanently end something show the loss and ask first; without a terminal they need ``--yes``."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from tests.cli.processes import BARE, CommandResult, quick
from tkdb.cli.app import run
from tkdb.cli.consent import ConsentOptions
from tkdb.macaroon.token import Macaroon


@contextmanager
def terminal(answer: str) -> Iterator[None]:
    """Make stdin and stderr a terminal at which the operator types ``answer``."""
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs, "r+b", buffering=0) as raw, os.fdopen(os.dup(theirs), "r") as stdin:
        stderr = io.TextIOWrapper(raw, write_through=True)
        with mock.patch.object(sys, "stdin", stdin), mock.patch.object(sys, "stderr", stderr):
            yield
    os.close(ours)


def answering(answer: str, *arguments: str, env: dict[str, str]) -> CommandResult:
    out = io.StringIO()
    with terminal(answer), mock.patch.object(sys, "stdout", out), mock.patch.dict(os.environ, BARE | env, clear=True):
        code = run(arguments)
    return CommandResult(code, out.getvalue(), "")


@pytest.fixture
def organization(dev: dict[str, str], request: pytest.FixtureRequest) -> str:
    """Return a new organization."""
    name = f"org{abs(hash(request.node.name)) % 10**12}"
    assert quick("org", "create", name, env=dev).code == 0
    return name


def commands(organization: str, kid: str) -> dict[str, tuple[str, ...]]:
    """Return each command that ends more than one lineage of tokens."""
    return {
        "organization": ("token", "revoke", "--organization", organization),
        "subject": ("token", "revoke", "--organization", organization, "--subject", "kim"),
        "before": ("token", "revoke", "--organization", organization, "--before", "2100-01-01"),
        "key": ("token", "revoke", "--key", kid),
        "delete": ("org", "delete", organization),
        "restore by time": ("restore", "--at", "2026-01-01"),
        "restore by entry": ("restore", "--seq", "1"),
    }


@pytest.mark.parametrize("which", commands("", ""))
def test_a_command_that_ends_much_needs_consent(dev: dict[str, str], organization: str, which: str) -> None:
    token = quick("token", "mint", organization, "--subject", "kim", env=dev).out
    kid = Macaroon.parse(token.strip()).kid.hex()
    command = commands(organization, kid)[which]
    for arguments in (command, (*command, "--json")):
        refused = quick(*arguments, env=dev)
        assert refused.code == 2
        assert "--yes" in refused.err
        assert "permanently" in refused.err
    shown = quick(*command, "--dry-run", "--yes", env=dev)
    assert (shown.code, shown.err) == (0, "nothing was changed\n")
    assert organization in shown.out or kid in shown.out or "restore" in which
    assert json.loads(quick(*command, "--dry-run", "--json", env=dev).out)["dry_run"] is True
    for answer in ("n\n", "\n", "\x04"):
        assert answering(answer, *command, env=dev).code == 1
    assert quick("token", "verify", stdin=token, env=dev).code == 0


@pytest.mark.parametrize("which", ["organization", "subject", "key", "delete"])
def test_the_command_goes_ahead_after_the_answer_yes(dev: dict[str, str], organization: str, which: str) -> None:
    token = quick("token", "mint", organization, "--subject", "kim", env=dev).out
    command = commands(organization, Macaroon.parse(token.strip()).kid.hex())[which]
    assert answering("y\n", *command, env=dev).code == 0
    assert quick("token", "verify", stdin=token, env=dev).code == 1


def test_without_the_rule_the_widest_revocation_asks_nobody(
    dev: dict[str, str], organization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConsentOptions, "is_given", property(lambda self: True))
    token = quick("token", "mint", organization, env=dev).out
    assert quick("token", "revoke", "--organization", organization, env=dev).code == 0
    assert quick("token", "verify", stdin=token, env=dev).code == 1


def test_gc_without_consent_is_refused_before_it_asks_the_bucket() -> None:
    for arguments in ((), ("--json",), ("--keep-days", "0")):
        ran = quick("gc", *arguments)
        assert (ran.code, "permanently deletes" in ran.err, "--yes" in ran.err) == (2, True, True)


def test_a_single_token_is_revoked_without_a_question(dev: dict[str, str], token: str) -> None:
    assert quick("token", "revoke", "--dry-run", stdin=token, env=dev).code == 2
    assert quick("token", "verify", stdin=token, env=dev).code == 0
    assert quick("token", "revoke", stdin=token, env=dev).code == 0


def test_an_unknown_organization_or_key_is_named_before_anything_is_asked(dev: dict[str, str]) -> None:
    for command in (("token", "revoke", "--organization", "acmee"), ("org", "delete", "acmee")):
        ran = quick(*command, "--dry-run", env=dev)
        assert (ran.code, ran.out) == (2, "")
        assert "'acmee'" in ran.err
    assert quick("token", "revoke", "--key", "00" * 16, "--dry-run", env=dev).code == 2
