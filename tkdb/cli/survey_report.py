"""A survey in words: the findings, the possible loss, and the next steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tkdb.cli.formatting import moment
from tkdb.cli.output import Cell, Part, Rows, bad, faint, good
from tkdb_replication.cluster.head_object import Absent, Damaged, describe
from tkdb_replication.cluster.recovery import RecoveryResult
from tkdb_replication.cluster.survey import Candidate, Nothing, Plan, Renew, Resume, Survey
from tkdb_replication.protocol.head import RECENT_ENTRIES_MAX

_HEADER: Final = ("SOURCE", "EPOCH", "ENTRIES", "LAST ENTRY")


def parts(survey: Survey, plan: Plan, done: RecoveryResult | None) -> Iterator[Part]:
    """Yield the findings, the decision and the action, for people."""
    yield _head(survey, plan)
    yield Rows(list(_rows(survey, plan)), header=_HEADER)
    match plan:
        case Nothing(head):
            yield good(f"there is nothing to recover: {head.base} can be restored, and the head continues from it")
        case Resume(head):
            yield good(f"no acknowledged entry is lost: the head names all of them, up to entry {head.seq}")
        case Renew():
            yield from _loss(plan)
    if done is not None:
        yield good("the cluster is recovered")
        yield Rows(_result(plan, done), indent=2)


def following(survey: Survey, plan: Plan, done: RecoveryResult | None) -> Iterator[str]:
    """Yield the next steps, for people."""
    if isinstance(plan, Renew) and done is None:
        source = "--from volume " if plan.candidate.backup is None else ""
        yield f"nothing was changed; to accept the loss: tkdb recover {source}--accept-loss"
    if done is None:
        return
    if isinstance(plan, Renew):
        yield "next: on each machine, delete TKDB_DB and the files next to it, then run tkdb serve, which restores it"
        yield f"then: revoke again everything that was revoked since {_time(plan.candidate)}"
    else:
        yield "next: tkdb serve, on each machine"


def _head(survey: Survey, plan: Plan) -> Part:
    match survey.there:
        case Absent():
            return bad("the head is lost")
        case Damaged(error):
            return bad(f"the head is damaged: {error.message}")
        case sound if isinstance(plan, Renew) and plan.lost is None:
            return bad(f"the head is an older one that was put back: {describe(sound.head)}")
        case sound:
            return f"the head is valid: {describe(sound.head)}, base {sound.head.base}"


def _rows(survey: Survey, plan: Plan) -> Iterator[Sequence[Cell]]:
    apart = {} if isinstance(plan, Nothing) else dict(survey.divergences(plan.candidate))
    for each in survey.candidates:
        epoch = "-" if each.backup is None else str(each.backup.epoch)
        yield each.source, epoch, str(each.audited.end.seq), _time(each), _standing(each, plan, apart)
    for refused in survey.refused:
        yield refused.source, "", "", "", bad(f"refused: {refused.error.message}")


def _standing(each: Candidate, plan: Plan, apart: dict[Candidate, int]) -> Cell:
    if isinstance(plan, Nothing):
        return good("the head's base") if each.source == plan.head.base else faint("a backup")
    if each is plan.candidate:
        return good("chosen")
    if each in apart:
        return bad(f"diverges after entry {apart[each]}")
    return faint("contained in the chosen one")


def _loss(plan: Renew) -> Iterator[Part]:
    end = plan.candidate.audited.end
    yield bad(f"entries acknowledged after entry {end.seq} ({_time(plan.candidate)}) are lost")
    if plan.lost is not None:
        yield f"  according to the head, these are at least {plan.lost} entries"
    elif plan.candidate.backup is None:
        yield "  there are none if this machine followed the head to its end"
        yield "  the disk of another machine may have more entries: check there, too"
    else:
        yield f"  at most {RECENT_ENTRIES_MAX} entries if this is the last primary's backup: those since its last sync"
        yield "  the disk of a machine may have more entries: run tkdb recover --from volume there"
    yield "  a token that one of them revoked is valid again: repeat every revocation since that time"


def _result(plan: Plan, done: RecoveryResult) -> list[Sequence[Cell]]:
    journal = done.head.journal.hex()
    rows: list[Sequence[Cell]] = [
        ("journal", f"a new one, {journal}" if isinstance(plan, Renew) else f"the same, {journal}"),
        ("entries", str(done.head.seq)),
        ("epoch", str(done.head.epoch)),
        ("base", f"{done.head.base}, which was restored and audited"),
    ]
    return rows if done.kept is None else [*rows, ("old head", f"kept at {done.kept}")]


def document(survey: Survey, plan: Plan, done: RecoveryResult | None) -> dict[str, Any]:
    """Return the findings, the decision and the action as JSON, for programs."""
    there = {Absent: "lost", Damaged: "damaged"}.get(type(survey.there), "sound")
    chosen = None if isinstance(plan, Nothing) else plan.candidate
    apart = {} if chosen is None else dict(survey.divergences(chosen))
    return {
        "head": there,
        "plan": {Nothing: "nothing", Resume: "resume", Renew: "renew"}[type(plan)],
        "candidates": [
            {**_candidate(each), "chosen": each is chosen, "diverges_after": apart.get(each)}
            for each in survey.candidates
        ],
        "refused": [
            {"source": each.source, "code": each.error.code, "message": each.error.message} for each in survey.refused
        ],
        "may_be_lost_after": _candidate(plan.candidate) if isinstance(plan, Renew) else None,
        "lost_at_least": plan.lost if isinstance(plan, Renew) else 0,
        "recovered": None if done is None else _done(done),
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    end = candidate.audited.end
    return {
        "source": candidate.source,
        "journal": candidate.audited.journal.hex(),
        "epoch": end.epoch,
        "seq": end.seq,
        "hash": end.hash.hex(),
        "time_ms": end.time_ms,
    }


def _done(done: RecoveryResult) -> dict[str, Any]:
    head = done.head
    return {
        "journal": head.journal.hex(),
        "epoch": head.epoch,
        "seq": head.seq,
        "hash": head.hash.hex(),
        "base": head.base,
        "kept": done.kept,
    }


def _time(candidate: Candidate) -> str:
    return moment(candidate.audited.end.time_ms / 1000)
