"""``tkdb doctor``: the checks that a deployment is isolated and safe."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tkdb.cli import inputs
from tkdb.cli.cluster import now_ms
from tkdb.cli.machines import Urls, urls
from tkdb.cli.output import Cell, Output, Part, Rows, UsageError, bad, faint, good

if TYPE_CHECKING:
    from tkdb.channel.keys import AuthorityIdentity
    from tkdb_ops.doctor.doctor import Given
    from tkdb_ops.doctor.findings import Finding
    from tkdb_replication.protocol.head import HeadKeys

_MARKS: Final = {"passed": good("✓"), "failed": bad("✗"), "unknown": bad("?")}
_OUTCOMES: Final = (*_MARKS, "skipped")

Config = Annotated[str | None, typer.Option("--config", metavar="PATH", help="The fly.toml to check; - is stdin.")]
App = Annotated[
    str, typer.Option("--app", metavar="APP", help="The app on Fly. Default: the one in the URL, or in fly.toml.")
]


def doctor(output: Output, url: Urls = None, app: App = "", config: Config = None) -> None:
    """Check that the authority is isolated and safe.

    Run it on the private network, in the place of a caller. With TKDB_URL and TKDB_AUTHORITY, it checks the network and
    the machines; with FLY_API_TOKEN, the app on Fly; with --config, a fly.toml; with BUCKET_NAME and the AWS_…
    variables, the bucket; and with TKDB_SEAL_KEYS, the bucket's head. docs/doctor.md lists the checks.

    Exit 1: a check failed. Exit 3: no check failed, but something that should be checked didn't answer.

    \b
    $ tkdb doctor
    ✓ the authority is called at a private address        tkdb.flycast is fdaa:0:1:0:1::7
    ✗ tkdb-syd-1 in syd answers requests without Fly-Src  set TKDB_FLY_SRC=require, then `fly deploy`
    - FLY_API_TOKEN isn't set: no-public-address, hosted, alike
    8 checks passed, 1 failed, 3 not made
    """
    from tkdb_ops.doctor.doctor import diagnose

    given = _given(url, app, config)
    findings = asyncio.run(diagnose(given, now_ms=now_ms, random_bytes=os.urandom))
    counts = {outcome: sum(each.outcome == outcome for each in findings) for outcome in _OUTCOMES}
    output.result(_document(findings, counts), Rows(_made(findings)), *_unmade(findings), _total(counts))
    if counts["failed"] or counts["unknown"]:
        raise typer.Exit(1 if counts["failed"] else 3)


def _given(url: Sequence[str] | None, app: str, config: str | None) -> Given:
    """Return the things to check, from the options and the environment.

    Raises:
        UsageError, ConfigurationError: there is nothing to check, or a value can't be used.
    """
    from tkdb.net.url import Url
    from tkdb_ops.doctor.deployment import parse_toml
    from tkdb_ops.doctor.doctor import Given
    from tkdb_ops.fly_api import FlyApi
    from tkdb_replication.bucket.settings import Bucket

    where = urls(url) if url or os.environ.get("TKDB_URL") else []
    token = inputs.setting("FLY_API_TOKEN")
    in_bucket = "BUCKET_NAME" in os.environ
    if not (where or config or in_bucket or (token and app)):
        raise UsageError(
            "there is nothing to check",
            hint="set TKDB_URL and TKDB_AUTHORITY, or set FLY_API_TOKEN and give --app, or give --config",
        )
    written = None if config is None else parse_toml(inputs.document(config), "stdin" if config == "-" else config)
    fly = None if token is None else FlyApi.parse(os.environ, token)
    return Given(
        urls=tuple(map(Url.parse, where)),
        identity=_identity(),
        app=app,
        fly=fly,
        written=written,
        bucket=Bucket.parse(os.environ) if in_bucket else None,
        head_keys=_head_keys() if in_bucket else None,
    )


def _identity() -> AuthorityIdentity | None:
    """Return the authority's name and public key, from TKDB_AUTHORITY or else from the authority's own secrets."""
    from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret

    if text := os.environ.get("TKDB_AUTHORITY"):
        return AuthorityIdentity.parse(text.strip())
    name, keys = inputs.setting("TKDB_NAME"), inputs.setting("TKDB_AUTHORITY_KEY")
    if not (name and keys):
        return None
    return AuthorityIdentity(name, tuple(AuthoritySecret.parse(each.strip()).public for each in keys.split(",")))


def _head_keys() -> HeadKeys | None:
    from tkdb.journal.seal import SealKeys
    from tkdb_replication.protocol.head import HeadKeys

    text = inputs.setting("TKDB_SEAL_KEYS")
    return HeadKeys(SealKeys.parse(text).keys) if text else None


def _made(findings: Sequence[Finding]) -> Iterator[Sequence[Cell]]:
    """Yield a row for each check that wasn't skipped."""
    from tkdb_ops.doctor.verdict import CHECKS

    titles = {check.id: check.title for check in CHECKS}
    for each in findings:
        if each.outcome == "failed":
            yield _MARKS[each.outcome], each.found, each.fix
        elif each.outcome != "skipped":
            yield _MARKS[each.outcome], titles[each.check], faint(each.found)


def _unmade(findings: Sequence[Finding]) -> Iterator[Cell]:
    """Yield a line for each reason for which checks were skipped."""
    reasons: dict[str, list[str]] = {}
    for each in findings:
        if each.outcome == "skipped":
            reasons.setdefault(each.found, []).append(each.check)
    for why, checks in reasons.items():
        yield faint(f"- {why}: {', '.join(checks)}")


def _total(counts: dict[str, int]) -> Part:
    passed, failed, unmade = counts["passed"], counts["failed"], counts["unknown"] + counts["skipped"]
    said = f"{passed} {'check' if passed == 1 else 'checks'} passed, {failed} failed"
    said += f", {unmade} not made" if unmade else ""
    return bad(said) if failed else good(said)


def _document(findings: Sequence[Finding], counts: dict[str, int]) -> dict[str, Any]:
    from tkdb_ops.doctor.verdict import CHECKS

    titles = {check.id: check.title for check in CHECKS}
    return {
        "ok": not counts["failed"] and not counts["unknown"],
        **counts,
        "checks": [
            {
                "check": each.check,
                "outcome": each.outcome.value,
                "expected": titles[each.check],
                "found": each.found,
                "try": each.fix,
            }
            for each in findings
        ],
    }
