"""What must hold whatever breaks: each rule reads the evidence of a run and names what violates it."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

from chaos.books import BOOKS
from chaos.evidence import Asked, Evidence, Life, Outage, Told, Turn, echo_of, marker_of
from chaos.findings import FINAL, Rule, Violation, turns_by_marker

# From the moment on at which a process could settle what another one left behind.
SETTLED_WITHIN = 20.0
# How long `serve` goes on trying to write when it is stopped (AGENTAPI_SHUTDOWN_GRACE_SECONDS).
GRACE = 20.0
# Rows are stamped by Postgres, deaths by the harness.
# What a slow machine may violate.
TIMED = frozenset({"interruption_told_late", "call_outlasted_wait"})
_CLOCKS = 0.5
_BEGINNING, _END = 300, 600  # what a line of the log is about, and the error itself


def check(evidence: Evidence, *more: Rule) -> list[Violation]:
    """Try every rule."""
    return [violation for rule in (*RULES, *more) for violation in rule(evidence)]


def stands_once(evidence: Evidence) -> Iterator[Violation]:
    """Require that each accepted message stands once."""
    stands = Counter(marker_of(each.content) for each in evidence.stored if each.role == "user")
    for message in evidence.messages:
        count = stands[message.marker]
        if message.told and not count:
            yield Violation("message_lost", message.marker, "accepted, and not in the database")
        if count > message.copies:
            yield Violation("message_twice", message.marker, f"stands {count} times")


def ends_once(evidence: Evidence) -> Iterator[Violation]:
    """Require that each turn ends once, and not before it began."""
    answers = Counter(each.turn_id for each in evidence.stored if each.role == "assistant")
    endings: dict[str, set[str]] = defaultdict(set)
    for told in _all_told(evidence):
        if told.status in FINAL:
            endings[told.turn_id].add(told.status)
    for turn in evidence.turns:
        if turn.ended_at is None or turn.status not in FINAL:
            yield Violation("turn_never_ended", turn.id, turn.status)
        elif turn.ended_at < turn.created_at:
            yield Violation("ended_before_begun", turn.id, f"by {turn.created_at - turn.ended_at:.1f} s")
        if answers[turn.id] > 1:
            yield Violation("turn_ended_twice", turn.id, f"{answers[turn.id]} answers stand")
        elif len(endings[turn.id]) > 1:
            yield Violation("turn_ended_twice", turn.id, f"told {' and '.join(sorted(endings[turn.id]))}")


def asked_once(evidence: Evidence) -> Iterator[Violation]:
    """Require that no turn is asked twice."""
    copies = {message.marker: message.copies for message in evidence.messages}
    asked: dict[str, list[Asked]] = defaultdict(list)
    for each in evidence.asked:
        if each.marker is not None:
            asked[each.marker].append(each)
    for marker, requests in asked.items():
        if len(requests) > copies.get(marker, 1):
            yield Violation("asked_twice", marker, _told_of(requests, evidence.lives))


def own_reply(evidence: Evidence) -> Iterator[Violation]:
    """Require that no reply stands in another session or is given to the caller of another message."""
    turns = {turn.id: turn for turn in evidence.turns}
    for message in evidence.messages:
        for told in message.told:
            if message.session_id not in {None, told.session_id}:
                yield Violation("foreign_reply", message.marker, f"sent to {message.session_id}")
            elif echo_of(told.reply) not in {None, message.marker}:
                yield Violation("foreign_reply", message.marker, f"told {told.reply[:60]}")
    for stored in evidence.stored:
        said = echo_of(stored.content) if stored.role == "assistant" else None
        turn = turns.get(stored.turn_id or "")
        if said is not None and (turn is None or turn.marker != said or turn.session_id != stored.session_id):
            yield Violation("foreign_reply", said, f"stands in session {stored.session_id}, turn {stored.turn_id}")


def in_order(evidence: Evidence) -> Iterator[Violation]:
    """Require that in a session every answer follows its message, and messages stand as they were sent."""
    numbers = {message.marker: (message.client, message.number) for message in evidence.messages}
    latest: dict[str, set[str | None]] = {}
    reached: dict[tuple[str, int], int] = {}
    for stored in evidence.stored:
        if stored.role == "assistant" and stored.turn_id not in latest.get(stored.session_id, ()):
            yield Violation(
                "order_broken", stored.session_id, f"the answer of turn {stored.turn_id} does not follow it"
            )
        if stored.role != "user":
            continue
        latest[stored.session_id] = {stored.turn_id, *stored.answered_by}
        client, number = numbers.get(marker_of(stored.content) or "", (-1, 0))
        before = reached.get((stored.session_id, client), number)
        if number < before:
            yield Violation("order_broken", stored.session_id, f"message {number} stands after {before}")
        reached[stored.session_id, client] = number


def completed_is_kept(evidence: Evidence) -> Iterator[Violation]:
    """Require that what a caller was told `completed` is `completed` in the database with the same text."""
    turns = {turn.id: turn for turn in evidence.turns}
    for message in evidence.messages:
        for told in message.told:
            turn = turns.get(told.turn_id)
            if told.status != "completed":
                continue
            if turn is None or turn.status != "completed":
                yield Violation("completed_not_kept", told.turn_id, f"is {turn.status if turn else 'not there'}")
                break
            if (turn.reply or "").strip() != told.reply.strip():
                yield Violation("completed_not_kept", told.turn_id, "with another text")
                break


def answers_kept(evidence: Evidence) -> Iterator[Violation]:
    """Require that an answer that the provider ended is kept, unless its process died before."""
    turns = turns_by_marker(evidence)
    lives = {life.process: life for life in evidence.lives}
    for asked in evidence.asked:
        if asked.ended_at is None or asked.marker is None:
            continue
        mine = turns.get(asked.marker, [])
        if any(_is_kept(turn, asked) for turn in mine):
            continue
        if not _is_excused(mine, lives.get(asked.process), evidence.outages):
            yield Violation("answer_lost", asked.marker, _told_of_answer(asked, mine, lives.get(asked.process)))


def accepted_is_run(evidence: Evidence) -> Iterator[Violation]:
    """Require that what was accepted is asked, unless a process died or stopped meanwhile: it may be its own."""
    asked = {each.marker for each in evidence.asked}
    for turn in evidence.turns:
        if turn.status != "interrupted" or turn.marker is None or turn.marker in asked:
            continue
        ends = (end for life in evidence.lives for end in (life.stopping, life.until) if end is not None)
        if not any(turn.created_at <= end + _CLOCKS and end <= (turn.ended_at or end) for end in ends):
            yield Violation("accepted_not_run", turn.id, f"{turn.end_reason}, and the provider was never asked")


def interruptions_told(evidence: Evidence) -> Iterator[Violation]:
    """Require that what was asked in a process that died is told as `interrupted`, in time."""
    turns = turns_by_marker(evidence)
    deaths = {life.process: life for life in evidence.lives if life.killed}
    for asked in evidence.asked:
        life = deaths.get(asked.process)
        if life is None or life.until is None or asked.marker is None:
            continue
        # Of several turns of one message, the one that was accepted last when the provider was asked.
        accepted = [turn for turn in turns.get(asked.marker, []) if turn.created_at <= asked.at + _CLOCKS]
        if accepted:
            yield from _judge_orphan(accepted[-1], life, evidence)


def ends_audited(evidence: Evidence) -> Iterator[Violation]:
    """Require that the end that a caller was told of is in the audit log."""
    for told in {told.turn_id: told for told in _all_told(evidence)}.values():
        # A turn that was settled for a dead process was ended by no caller's doing.
        if told.status in FINAL - {"interrupted"} and told.turn_id not in evidence.audited:
            yield Violation("end_not_audited", told.turn_id, told.status)


def nothing_unexpected(evidence: Evidence) -> Iterator[Violation]:
    """Require that no replica met an error that its program does not know: callers are told of an internal error."""
    for replica, log in evidence.logged.items():
        for line in log.splitlines():
            if " level=error " in line:
                yield Violation("unexpected_error", replica, _shortened(line))


def _shortened(line: str) -> str:
    return line if len(line) <= _BEGINNING + _END else f"{line[:_BEGINNING]} … {line[-_END:]}"


RULES: Sequence[Rule] = (
    stands_once,
    ends_once,
    asked_once,
    own_reply,
    in_order,
    completed_is_kept,
    answers_kept,
    accepted_is_run,
    interruptions_told,
    ends_audited,
    *BOOKS,
    nothing_unexpected,
)


def split_known(
    evidence: Evidence, violations: Sequence[Violation], replicas: Collection[int]
) -> tuple[list[Violation], list[Violation]]:
    """Split off what the version before is known to do, of turns that these replicas asked.

    It writes the audit log half a second later, and what it told in that time is lost with it. It knows no budgets, and
    tells nothing of them, also of turns that others asked.
    """
    prefixes = tuple(f"replica-{number}." for number in replicas)
    theirs = {asked.marker for asked in evidence.asked if asked.process.startswith(prefixes)}
    turns = {turn.id for turn in evidence.turns if turn.marker in theirs}
    known = [
        each
        for each in violations
        if (each.name == "end_not_audited" and each.subject in turns) or (each.name == "left_not_told" and replicas)
    ]
    return [each for each in violations if each not in known], known


def waits_bounded(evidence: Evidence) -> Iterator[Violation]:
    """Require that `wait_seconds` bounds the whole call, plus one second."""
    for message in evidence.messages:
        for call in message.calls:
            if call.took > call.wait + 1:
                yield Violation(
                    "call_outlasted_wait", message.marker, f"{call.took:.1f} s where {call.wait:g} were asked"
                )


def refused_by_status(evidence: Evidence) -> Iterator[Violation]:
    """Require that a server that stops refuses with 503 and Retry-After, and never inside a 200."""
    for message in evidence.messages:
        for refusal in message.refusals:
            if refusal.kind == "tool":
                yield Violation("refused_in_200", message.marker, refusal.text)
            elif refusal.retry_after is None:
                yield Violation("call_failed", message.marker, f"{refusal.kind}: {refusal.text}")


def all_answered(evidence: Evidence) -> Iterator[Violation]:
    """Require that every message has an answer in the end."""
    for message in evidence.messages:
        if message.last is None or message.last.status != "completed":
            told = "nothing" if message.last is None else message.last.status
            yield Violation("never_answered", message.marker, f"told {told}")


def never_silent(evidence: Evidence) -> Iterator[Violation]:
    """Require that every call over stdio has an answer, and that nothing but the harness ends a client's own server."""
    for message in evidence.messages:
        for refusal in message.refusals:
            if refusal.kind not in {"rpc", "tool", "killed"}:
                yield Violation("call_unanswered", message.marker, f"{refusal.kind}: {refusal.text}")


def may_settle_by(life: Life, lives: Sequence[Life], outages: Sequence[Outage]) -> float | None:
    """Return until when what a dead process left must be settled: None while no process had the time to.

    The time counts from the death, or from when a process is up that has the database, and is for a process that keeps
    both until it is over.
    """
    assert life.until is not None
    limits: list[float] = []
    for other in lives:
        if other.process == life.process:
            continue
        since = max(life.until, other.since)
        for outage in sorted((*outages, *other.frozen), key=lambda each: each.since):
            # One that begins before the time is over starts the time anew when it ends.
            if outage.since < since + SETTLED_WITHIN and (outage.until is None or outage.until > since):
                since = math.inf if outage.until is None else outage.until
        limit = since + SETTLED_WITHIN
        gone = other.stopping or other.until
        if gone is None or gone >= limit:
            limits.append(limit)
    return min(limits, default=None)


def _judge_orphan(turn: Turn, life: Life, evidence: Evidence) -> Iterator[Violation]:
    assert life.until is not None
    if turn.ended_at is not None and turn.ended_at <= life.until + _CLOCKS:
        return  # it ended before
    limit = may_settle_by(life, evidence.lives, evidence.outages)
    if limit is None or limit > evidence.at:
        return  # there was nobody yet who could
    if turn.ended_at is None or turn.status not in {"interrupted", "cancelled"}:
        yield Violation("interruption_not_told", turn.id, f"is {turn.status}; {life.process} died")
    elif turn.ended_at > limit + _CLOCKS:
        yield Violation("interruption_told_late", turn.id, f"{turn.ended_at - limit:.1f} s after it was due")


def _told_of(requests: Sequence[Asked], lives: Sequence[Life]) -> str:
    """Say which process asked when, in seconds from the first one on, and when it died."""
    first = requests[0].at
    died = {life.process: f", died at {life.until - first:.2f}" for life in lives if life.killed and life.until}
    return "; ".join(f"{each.process} at {each.at - first:.2f}{died.get(each.process, '')}" for each in requests)


def _told_of_answer(asked: Asked, turns: Sequence[Turn], life: Life | None) -> str:
    """Say what became of an answer, in seconds from when it was asked for."""

    def after(at: float | None) -> str:
        return "never" if at is None else f"at {at - asked.at:.2f}"

    ends = ", ".join(f"{turn.status} {after(turn.ended_at)} ({turn.end_reason})" for turn in turns)
    gone = "" if life is None else f", told to stop {after(life.stopping)}, gone {after(life.until)}"
    return f"answered {after(asked.ended_at)} to {asked.process}{gone}; the turn is {ends or 'not there'}"


def _is_kept(turn: Turn, asked: Asked) -> bool:
    # A turn that its caller stopped keeps the text so far.
    return turn.status == "cancelled" or (
        turn.status == "completed" and (asked.text or "").strip() == (turn.reply or "").strip()
    )


def _is_excused(turns: Sequence[Turn], life: Life | None, outages: Sequence[Outage]) -> bool:
    """Tell whether the process was gone before it could write: killed, or stopped and out of grace without a database.

    One that stood still counts as gone meanwhile.
    """
    if life is None:
        return False
    if any(_is_in(turn.ended_at, still) for turn in turns for still in life.frozen):
        return True
    if life.until is None:
        return False
    gone = life.until
    if any(turn.ended_at is not None and turn.ended_at < gone - _CLOCKS for turn in turns):
        return False  # it was given up while the process lived
    tried = life.stopping is not None and gone - life.stopping >= GRACE - _CLOCKS
    return life.killed or (tried and any(_is_in(gone, outage) for outage in outages))


def _is_in(at: float | None, outage: Outage) -> bool:
    return at is not None and outage.since <= at and (outage.until is None or at <= outage.until)


def _all_told(evidence: Evidence) -> Iterator[Told]:
    for message in evidence.messages:
        yield from message.told
