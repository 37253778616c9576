"""The checker of the chaos harness: each rule names what a hand-made run violates, and a sound run violates none."""

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import chaos.invariants
import pytest
from chaos.evidence import (
    CallTime,
    Evidence,
    Life,
    Message,
    Outage,
    Refusal,
    Told,
    echo,
    marked,
    nanos_of,
    read_database,
    read_log,
    usage_of,
)
from chaos.invariants import (
    all_answered,
    check,
    may_settle_by,
    never_silent,
    refused_by_status,
    split_known,
    waits_bounded,
)

from tests.support.databases import DatabaseUrls

# When the message of a run was sent; the times of all else are seconds from then on.
_SENT = 1_800_000_000.0
_OWNER = "replica-0.1"
_SESSION = "INSERT INTO public.chat_sessions (id, user_id, created_at) VALUES ($1, $2, to_timestamp($3))"
_MESSAGE = """
INSERT INTO public.chat_messages (id, session_id, role, content, metadata, created_at)
VALUES ($1, $2, $3, $4, jsonb_build_object('turn_id', $5::uuid), to_timestamp($6))
"""
_TURN = """
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_name, backend,
    fingerprint, status, lease_owner, lease_until, created_at, ended_at, input_tokens, output_tokens, cost_usd)
VALUES ($1, $2, $3, $3, $4, $5, 'stub', 'openai', '', $6::text,
    CASE WHEN $6::text = 'running' THEN $3::uuid END, CASE WHEN $6::text = 'running' THEN now() END,
    to_timestamp($7), to_timestamp($8), $9, $10, $11::numeric / 1000000000)
"""
_ENTER = "SELECT agentapi.enter(agentapi.entry_of(t)) FROM agentapi.turns t WHERE t.id = $1 AND t.status <> 'running'"
_AUDIT = """
INSERT INTO agentapi.audit_events (id, at, action, target_id, outcome)
VALUES ($1, to_timestamp($2), 'turn_ended', $3, 'ok')
"""


@dataclass
class Trial:
    """A run written by hand: its database, its provider's log, its clients, and its processes."""

    urls: DatabaseUrls
    log: Path
    connection: "asyncpg.Connection[asyncpg.Record]"
    user: str = field(default_factory=lambda: str(uuid4()))
    messages: list[Message] = field(default_factory=list[Message])
    logged: str = "level=warning event=leases_not_renewed\n"
    lives: list[Life] = field(default_factory=lambda: [Life(process=_OWNER, since=_SENT - 60)])
    outages: list[Outage] = field(default_factory=list[Outage])

    def send(self, **more: object) -> Message:
        """Let a client send a message."""
        message = Message(marker=uuid4().hex, **more)  # type: ignore[arg-type]  # fields of a message
        self.messages.append(message)
        return message

    async def session(self) -> str:
        """Begin a session."""
        session = str(uuid4())
        await self.connection.execute(_SESSION, session, self.user, _SENT)
        return session

    async def say(self, session: str, role: str, content: str, turn: str, at: float) -> str:
        """Store a message of a session."""
        message = str(uuid4())
        await self.connection.execute(_MESSAGE, message, session, role, content, turn, _SENT + at)
        return message

    async def store(
        self,
        message: Message,
        *,
        status: str = "completed",
        reply: str | None = "",
        session: str | None = None,
        at: float = 0.0,
        ended: float | None = 2.0,
    ) -> Told:
        """Store a turn as the program does, audited; return what its caller is told of it."""
        session, turn = session or await self.session(), str(uuid4())
        asked = await self.say(session, "user", marked(message.marker, "hello"), turn, at)
        said = self.answer_to(message) if reply == "" else reply
        end = None if ended is None else at + ended
        answer = None if said is None or end is None else await self.say(session, "assistant", said, turn, end)
        stamps = (_SENT + at, None if end is None else _SENT + end)
        usage = usage_of(message.marker)
        bill = (*usage, nanos_of(usage)) if status == "completed" else (None, None, None)
        await self.connection.execute(_TURN, turn, session, self.user, asked, answer, status, *stamps, *bill)
        await self.connection.execute(_ENTER, turn)
        if end is not None:
            await self.connection.execute(_AUDIT, str(uuid4()), _SENT + end, turn)
        return Told(at=_SENT + 3, turn_id=turn, session_id=session, status=status, reply=said or "")

    def ask(self, message: Message, *, ended: float | None = 2.0, process: str = _OWNER, at: float = 0.0) -> None:
        """Write a request to the provider's log, and its end."""
        request = uuid4().hex
        lines: list[Mapping[str, object]] = [{"at": _SENT + at, "what": "asked", "marker": message.marker}]
        if ended is not None:
            lines.append({"at": _SENT + at + ended, "what": "ended", "text": self.answer_to(message)})
        with self.log.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps({**line, "request": request, "process": process}) + "\n")

    async def answered(self) -> Message:
        """Let a message be sent, accepted, asked, answered, kept and told."""
        message = self.send()
        self.ask(message)
        message.told.append(await self.store(message))
        message.calls.append(CallTime(wait=8, took=2))
        return message

    def die(self, at: float) -> None:
        """Let the owner die, beside another process that lives."""
        self.lives[0].until, self.lives[0].killed = _SENT + at, True
        self.lives.append(Life(process="replica-1.1", since=_SENT - 60))

    async def evidence(self) -> Evidence:
        """Read it back as the harness does."""
        rows = await read_database(self.urls.owner)
        return Evidence(
            at=_SENT + 600,
            messages=self.messages,
            turns=rows.turns,
            stored=rows.stored,
            audited=rows.audited,
            entries=rows.entries,
            false_days=rows.false_days,
            asked=read_log(self.log),
            lives=self.lives,
            outages=self.outages,
            logged={"replica-0": self.logged},
        )

    @staticmethod
    def answer_to(message: Message) -> str:
        """Say what the provider says."""
        return f"{echo(message.marker)} w0 w1"


@pytest.fixture
async def trial(database_urls: DatabaseUrls, tmp_path: Path) -> AsyncGenerator[Trial]:
    connection = await asyncpg.connect(database_urls.owner)
    try:
        made = Trial(database_urls, tmp_path / "provider.jsonl", connection)
        await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", made.user)
        yield made
    finally:
        await connection.close()


async def names(trial: Trial) -> set[str]:
    """Return the names of all violations."""
    found = check(await trial.evidence(), waits_bounded, refused_by_status, never_silent, all_answered)
    return {violation.name for violation in found}


async def lose_a_message(trial: Trial) -> None:
    told = Told(at=_SENT, turn_id=str(uuid4()), session_id=str(uuid4()), status="running")
    trial.send().told.append(told)


async def accept_a_message_twice(trial: Trial) -> None:
    message = await trial.answered()
    await trial.store(message, at=5)


async def never_end_a_turn(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message, ended=None)
    message.told.append(await trial.store(message, status="running", reply=None, ended=None))


async def store_two_answers(trial: Trial) -> None:
    message = await trial.answered()
    told = message.told[0]
    await trial.say(told.session_id, "assistant", trial.answer_to(message), told.turn_id, 3)


async def tell_two_ends(trial: Trial) -> None:
    message = await trial.answered()
    told = message.told[0]
    message.told.insert(0, Told(at=_SENT, turn_id=told.turn_id, session_id=told.session_id, status="failed"))


async def end_before_the_beginning(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("UPDATE agentapi.turns SET ended_at = created_at - interval '1 hour'")


async def ask_twice(trial: Trial) -> None:
    trial.ask(await trial.answered(), at=5)


async def tell_the_reply_of_another(trial: Trial) -> None:
    message, other = await trial.answered(), await trial.answered()
    told = message.told[0]
    running = {"at": _SENT, "turn_id": told.turn_id, "session_id": told.session_id, "status": "running"}
    message.told.insert(0, Told(**running, reply=trial.answer_to(other)))  # type: ignore[arg-type]  # fields of it


async def tell_of_another_session(trial: Trial) -> None:
    message = await trial.answered()
    message.session_id = str(uuid4())


async def store_the_reply_of_another(trial: Trial) -> None:
    message, other = trial.send(), await trial.answered()
    trial.ask(message, ended=None)
    message.told.append(await trial.store(message, reply=trial.answer_to(other)))
    message.told[0] = Told(at=_SENT, turn_id=message.told[0].turn_id, session_id="", status="cancelled")


async def move_a_reply_to_another_session(trial: Trial) -> None:
    await trial.answered()
    moved = "UPDATE public.chat_messages SET session_id = $1 WHERE role = 'assistant'"
    await trial.connection.execute(moved, await trial.session())


async def answer_out_of_order(trial: Trial) -> None:
    first, second = await trial.answered(), trial.send(number=1)
    trial.ask(second)
    session = first.told[0].session_id
    second.told.append(await trial.store(second, session=session, at=1, ended=4.0))


async def accept_out_of_order(trial: Trial) -> None:
    first, second = trial.send(number=1), trial.send(number=0)
    session = await trial.session()
    for at, message in ((0, first), (10, second)):
        trial.ask(message)
        message.told.append(await trial.store(message, session=session, at=at))


async def tell_completed_and_interrupt(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message, ended=None)
    told = await trial.store(message, status="interrupted")
    message.told.append(Told(at=_SENT, turn_id=told.turn_id, session_id=told.session_id, status="completed"))


async def tell_completed_with_another_text(trial: Trial) -> None:
    message = await trial.answered()
    told = message.told[0]
    text = f"{told.reply} and more"
    message.told[0] = Told(at=_SENT, turn_id=told.turn_id, session_id=told.session_id, status="completed", reply=text)


async def lose_an_answer(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message)
    await trial.store(message, status="interrupted", reply=None)
    message.copies = 1


async def lose_an_answer_before_the_death(trial: Trial) -> None:
    await lose_an_answer(trial)
    trial.die(30)


async def never_ask(trial: Trial) -> None:
    await trial.store(trial.send(), status="interrupted", reply=None)


async def forget_an_orphan(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message, ended=None)
    trial.die(1)
    await trial.store(message, status="failed", reply=None, ended=10.0)


async def settle_an_orphan_late(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message, ended=None)
    trial.die(1)
    await trial.store(message, status="interrupted", reply=None, ended=30.0)


async def lose_an_audit_event(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("DELETE FROM agentapi.audit_events")


async def enter_twice(trial: Trial) -> None:
    message = await trial.answered()
    await trial.connection.execute(_ENTER, message.told[0].turn_id)


async def lose_an_entry(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("TRUNCATE agentapi.ledger, agentapi.usage_daily")


async def lose_a_day(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("DELETE FROM agentapi.usage_daily")


async def bill_more(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("UPDATE agentapi.turns SET cost_usd = cost_usd + 0.000000001")


async def tell_another_bill(trial: Trial) -> None:
    message = await trial.answered()
    message.told[0] = replace(message.told[0], bill=(*usage_of(message.marker), 1))


async def change_a_bill_silently(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("ALTER TABLE agentapi.turns DISABLE TRIGGER account_turn")
    await trial.connection.execute(
        "UPDATE agentapi.turns SET input_tokens = NULL, output_tokens = NULL, cost_usd = NULL"
    )
    await trial.connection.execute("ALTER TABLE agentapi.turns ENABLE TRIGGER account_turn")


async def forget_a_bill(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("UPDATE agentapi.turns SET cost_usd = 0")


async def log_an_error(trial: Trial) -> None:
    await trial.answered()
    trial.logged += "timestamp=1 level=error event=request_failed exception=KeyError\n"


async def outlast_a_wait(trial: Trial) -> None:
    message = await trial.answered()
    message.calls.append(CallTime(wait=8, took=9.1))


async def refuse_in_a_200(trial: Trial) -> None:
    message = await trial.answered()
    message.refusals.append(Refusal(at=_SENT, kind="tool", text="The server is shutting down."))


async def fail_a_call(trial: Trial) -> None:
    message = await trial.answered()
    message.refusals.append(Refusal(at=_SENT, kind="http", text="502"))


async def say_nothing(trial: Trial) -> None:
    message = await trial.answered()
    message.refusals.append(Refusal(at=_SENT, kind="timeout", text="no answer in 53 s"))


async def leave_a_message_unanswered(trial: Trial) -> None:
    trial.send()


Spoiler = Callable[[Trial], Awaitable[None]]
SPOILERS: tuple[tuple[Spoiler, set[str]], ...] = (
    (lose_a_message, {"message_lost", "never_answered"}),
    (accept_a_message_twice, {"message_twice", "bill_lost"}),
    (never_end_a_turn, {"turn_never_ended", "never_answered"}),
    (store_two_answers, {"turn_ended_twice"}),
    (tell_two_ends, {"turn_ended_twice"}),
    (end_before_the_beginning, {"ended_before_begun"}),
    (ask_twice, {"asked_twice", "bill_lost"}),
    (tell_the_reply_of_another, {"foreign_reply"}),
    (tell_of_another_session, {"foreign_reply"}),
    (store_the_reply_of_another, {"foreign_reply", "never_answered", "bill_lost"}),
    (move_a_reply_to_another_session, {"foreign_reply", "order_broken"}),
    (answer_out_of_order, {"order_broken"}),
    (accept_out_of_order, {"order_broken"}),
    (tell_completed_and_interrupt, {"completed_not_kept"}),
    (tell_completed_with_another_text, {"completed_not_kept"}),
    (lose_an_answer, {"answer_lost", "never_answered"}),
    (lose_an_answer_before_the_death, {"answer_lost", "never_answered"}),
    (never_ask, {"accepted_not_run", "never_answered"}),
    (forget_an_orphan, {"interruption_not_told", "never_answered"}),
    (settle_an_orphan_late, {"interruption_told_late", "never_answered"}),
    (lose_an_audit_event, {"end_not_audited"}),
    (enter_twice, {"entered_twice"}),
    (lose_an_entry, {"not_entered"}),
    (lose_a_day, {"days_not_ledger"}),
    (bill_more, {"bill_not_the_providers"}),
    (change_a_bill_silently, {"ledger_not_bill"}),
    (forget_a_bill, {"bill_lost"}),
    (tell_another_bill, {"told_another_bill"}),
    (log_an_error, {"unexpected_error"}),
    (outlast_a_wait, {"call_outlasted_wait"}),
    (refuse_in_a_200, {"refused_in_200"}),
    (fail_a_call, {"call_failed", "call_unanswered"}),
    (say_nothing, {"call_failed", "call_unanswered"}),
    (leave_a_message_unanswered, {"never_answered"}),
)


@pytest.mark.parametrize(("spoil", "expected"), SPOILERS, ids=[spoil.__name__ for spoil, _ in SPOILERS])
async def test_each_violation_is_named(trial: Trial, spoil: Spoiler, expected: set[str]) -> None:
    await spoil(trial)
    assert await names(trial) == expected


async def test_an_end_that_the_version_before_did_not_audit_is_told_apart(trial: Trial) -> None:
    await lose_an_audit_event(trial)
    evidence = await trial.evidence()
    found = check(evidence)
    assert split_known(evidence, found, [0]) == ([], found)
    assert split_known(evidence, found, [1]) == split_known(evidence, found, []) == (found, [])


def test_every_violation_has_its_example() -> None:
    source = Path(chaos.invariants.__file__).read_text(encoding="utf-8")
    known = set(re.findall(r'Violation\(\s*"(\w+)"', source))
    assert len(known) > 10
    assert known == set().union(*(expected for _, expected in SPOILERS))


async def test_a_run_in_which_nothing_was_lost_has_no_violation(trial: Trial) -> None:
    first = await trial.answered()
    second = trial.send(number=1, session_id=first.told[0].session_id)
    trial.ask(second, at=10)
    second.told.append(await trial.store(second, session=first.told[0].session_id, at=10))
    assert await names(trial) == set()


async def test_a_message_that_may_be_asked_anew_is_no_violation(trial: Trial) -> None:
    message = await trial.answered()
    trial.ask(message, at=5)
    await trial.store(message, at=5)
    message.copies = 2
    assert await names(trial) == set()


@pytest.mark.parametrize(
    ("kind", "is_violation"), [("tool", False), ("rpc", False), ("killed", False), ("ended", True)]
)
async def test_a_call_has_words_for_an_answer_or_its_client_was_killed(
    trial: Trial, kind: str, *, is_violation: bool
) -> None:
    message = await trial.answered()
    message.refusals.append(Refusal(at=_SENT, kind=kind, text="not answered"))
    assert bool(list(never_silent(await trial.evidence()))) == is_violation


async def test_an_answer_that_its_process_took_with_it_is_no_violation(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message)
    trial.die(2.2)
    message.told.append(await trial.store(message, status="interrupted", reply=None, ended=17.0))
    await trial.connection.execute("DELETE FROM agentapi.audit_events")  # nobody was there to tell of its end
    assert await names(trial) == {"never_answered"}


async def test_what_ended_before_its_process_died_is_not_to_be_interrupted(trial: Trial) -> None:
    await trial.answered()
    trial.die(2.2)
    assert await names(trial) == set()


async def test_of_two_turns_of_a_message_each_is_judged_by_the_process_that_asked_for_it(trial: Trial) -> None:
    message = trial.send(copies=2)
    trial.ask(message, ended=None)
    trial.die(3)
    await trial.store(message, status="interrupted", reply=None, ended=60.0)
    trial.ask(message, process="replica-1.1", at=4)
    await trial.store(message, at=4)
    found = check(await trial.evidence())
    assert [violation.name for violation in found] == ["interruption_told_late"]


async def test_an_answer_that_a_stopped_process_could_not_write_is_no_violation(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message)
    trial.lives[0].stopping, trial.lives[0].until = _SENT + 3, _SENT + 23
    trial.outages.append(Outage(since=_SENT + 1, until=_SENT + 40))
    await trial.store(message, status="interrupted", reply=None, ended=50.0)
    assert "answer_lost" not in await names(trial)
    trial.lives[0].until = _SENT + 6  # before its grace was over
    assert "answer_lost" in await names(trial)
    trial.lives[0].until = _SENT + 23
    trial.outages.clear()
    assert "answer_lost" in await names(trial)


async def test_an_answer_of_a_process_that_stood_still_is_no_violation(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message)
    await trial.store(message, status="interrupted", reply=None, ended=20.0)
    trial.lives[0].frozen.append(Outage(since=_SENT + 1, until=_SENT + 40))
    assert "answer_lost" not in await names(trial)


@pytest.mark.parametrize(("died", "is_violation"), [(-10, True), (1, False), (30, True)])
async def test_what_was_accepted_need_not_be_asked_where_a_process_died_meanwhile(
    trial: Trial, died: float, *, is_violation: bool
) -> None:
    await trial.store(trial.send(), status="interrupted", reply=None, ended=20.0)
    trial.die(died)
    assert ("accepted_not_run" in await names(trial)) == is_violation


async def test_what_a_caller_stopped_is_no_lost_answer(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message)
    message.told.append(await trial.store(message, status="cancelled"))
    assert await names(trial) == {"never_answered"}


async def test_a_line_that_a_killed_provider_did_not_finish_is_left_out(trial: Trial) -> None:
    message = await trial.answered()
    with trial.log.open("a", encoding="utf-8") as file:
        file.write('{"at": 1, "what": "as')
    assert [asked.marker for asked in read_log(trial.log)] == [message.marker]


async def test_a_message_is_followed_by_its_own_marker_where_others_are_joined_to_it(trial: Trial) -> None:
    first, second = trial.send(), trial.send()
    joined = f"{marked(first.marker, 'one')}\n\n{marked(second.marker, 'two')}"
    assert chaos.invariants.marker_of(joined) == second.marker


def death(at: float = 100.0) -> Life:
    return Life(process="dead", since=0, until=at, killed=True)


def test_what_a_dead_process_left_is_due_twenty_seconds_after_the_death_where_another_is_up() -> None:
    dead = death()
    assert may_settle_by(dead, [dead, Life(process="other", since=50)], []) == 120


def test_what_a_dead_process_left_is_due_after_the_first_start_where_none_was_up() -> None:
    dead = death()
    later = [Life(process="second", since=400), Life(process="first", since=300)]
    assert may_settle_by(dead, [dead, *later], []) == 320


def test_what_a_dead_process_left_is_due_after_the_return_of_the_database() -> None:
    dead, other = death(), Life(process="other", since=50)
    assert may_settle_by(dead, [dead, other], [Outage(since=90, until=130)]) == 150
    assert may_settle_by(dead, [dead, other], [Outage(since=115, until=130)]) == 150
    assert may_settle_by(dead, [dead, other], [Outage(since=90, until=130), Outage(since=140, until=141)]) == 161
    assert may_settle_by(dead, [dead, other], [Outage(since=120, until=130)]) == 120


def test_nothing_is_due_while_no_process_lives_long_enough() -> None:
    dead = death()
    assert may_settle_by(dead, [dead], []) is None
    assert may_settle_by(dead, [dead, Life(process="other", since=50, until=119)], []) is None
    assert may_settle_by(dead, [dead, Life(process="other", since=50, stopping=119, until=125)], []) is None
    asleep = Life(process="other", since=50, frozen=[Outage(since=105, until=125)])
    assert may_settle_by(dead, [dead, asleep], []) == 145
