"""The checker of the chaos harness: each rule names what a hand-made run violates, and a sound run violates none."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import chaos.books
import chaos.invariants
import pytest
from chaos.books import somebody_refused, sum_of
from chaos.evidence import (
    CallTime,
    Life,
    Message,
    Outage,
    Refusal,
    Sums,
    Told,
    marked,
    nanos_of,
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

from tests.chaos.trials import ENTER, RESERVED, SENT, Trial
from tests.support.databases import DatabaseUrls

# When the turns of a trial end.
DAY = datetime.fromtimestamp(SENT, UTC).date().isoformat()
LACKS = (
    "Your organisation's daily budget ($1.00) has $0.09 left, $0.20 of it is reserved for turns that run, and this "
    "message may cost $0.10; it renews at 2027-01-16 00:00 UTC. Lower max_tokens, choose a cheaper model, or have it "
    "raised by the operator of this server (`agentapi-mcp budgets set`). Nothing was asked."
)


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
    told = Told(at=SENT, turn_id=str(uuid4()), session_id=str(uuid4()), status="running")
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
    message.told.insert(0, Told(at=SENT, turn_id=told.turn_id, session_id=told.session_id, status="failed"))


async def end_before_the_beginning(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("UPDATE agentapi.turns SET ended_at = created_at - interval '1 hour'")


async def ask_twice(trial: Trial) -> None:
    trial.ask(await trial.answered(), at=5)


async def tell_the_reply_of_another(trial: Trial) -> None:
    message, other = await trial.answered(), await trial.answered()
    told = message.told[0]
    running = {"at": SENT, "turn_id": told.turn_id, "session_id": told.session_id, "status": "running"}
    message.told.insert(0, Told(**running, reply=trial.answer_to(other)))  # type: ignore[arg-type]  # fields of it


async def tell_of_another_session(trial: Trial) -> None:
    message = await trial.answered()
    message.session_id = str(uuid4())


async def store_the_reply_of_another(trial: Trial) -> None:
    message, other = trial.send(), await trial.answered()
    trial.ask(message, ended=None)
    message.told.append(await trial.store(message, reply=trial.answer_to(other)))
    message.told[0] = Told(at=SENT, turn_id=message.told[0].turn_id, session_id="", status="cancelled")


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
    message.told.append(Told(at=SENT, turn_id=told.turn_id, session_id=told.session_id, status="completed"))


async def tell_completed_with_another_text(trial: Trial) -> None:
    message = await trial.answered()
    told = message.told[0]
    text = f"{told.reply} and more"
    message.told[0] = Told(at=SENT, turn_id=told.turn_id, session_id=told.session_id, status="completed", reply=text)


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
    await trial.connection.execute(ENTER, message.told[0].turn_id)


async def lose_an_entry(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute(
        "TRUNCATE agentapi.ledger, agentapi.usage_daily, agentapi.usage_daily_of_organizations, "
        "agentapi.usage_daily_of_persons, agentapi.usage_agents_of_persons"
    )


async def lose_a_day(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("DELETE FROM agentapi.usage_daily")


async def lose_a_day_of_the_organization(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("DELETE FROM agentapi.usage_daily_of_organizations")


async def count_a_person_twice(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("UPDATE agentapi.usage_daily_of_persons SET turns = turns * 2")


async def lose_a_day_of_an_agent(trial: Trial) -> None:
    await trial.answered()
    await trial.connection.execute("UPDATE agentapi.usage_agents_of_persons SET last_day = last_day - 1")


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
    message.refusals.append(Refusal(at=SENT, kind="tool", text="The server is shutting down."))


async def fail_a_call(trial: Trial) -> None:
    message = await trial.answered()
    message.refusals.append(Refusal(at=SENT, kind="http", text="502"))


async def say_nothing(trial: Trial) -> None:
    message = await trial.answered()
    message.refusals.append(Refusal(at=SENT, kind="timeout", text="no answer in 53 s"))


async def leave_a_message_unanswered(trial: Trial) -> None:
    trial.send()


async def leave_a_reservation(trial: Trial) -> None:
    await trial.charged(await trial.budget(2 * RESERVED))
    await trial.connection.execute("UPDATE agentapi.budget_periods SET reserved_nanos = 1")


async def spend_too_much(trial: Trial) -> None:
    await trial.charged(await trial.budget(2 * RESERVED))
    await trial.connection.execute("UPDATE agentapi.budget_periods SET spent_nanos = spent_nanos + 1")


async def forget_an_unknown_cost(trial: Trial) -> None:
    await trial.charged(await trial.budget(2 * RESERVED), status="failed")
    await trial.connection.execute("UPDATE agentapi.budget_periods SET unpriced = 0")


async def tell_what_is_left(trial: Trial, period: str, **fields: object) -> None:
    message = await trial.charged(period)
    told = message.told[0]
    assert told.left is not None
    message.told[0] = replace(told, left=replace(told.left, **fields))


async def let_in_too_much(trial: Trial) -> None:
    await tell_what_is_left(trial, await trial.budget(1), nanos=0)


async def let_in_too_much_by_slices(trial: Trial) -> None:
    period = await trial.budget(2 * RESERVED)
    for each in (period, await trial.divide(period)):
        await trial.charged(each)
    spent = "SELECT sum(spent_nanos) - 1 FROM agentapi.budget_periods"
    await trial.connection.execute(f"UPDATE agentapi.budgets SET limit_nanos = ({spent})")  # noqa: S608  # ours


async def tell_that_less_is_left(trial: Trial) -> None:
    await tell_what_is_left(trial, await trial.budget(2 * RESERVED), nanos=-1)


async def tell_another_day(trial: Trial) -> None:
    await tell_what_is_left(trial, await trial.budget(2 * RESERVED), renews_at="2027-02-01T00:00:00Z")


async def tell_nothing_of_what_is_left(trial: Trial) -> None:
    message = await trial.charged(await trial.budget(2 * RESERVED))
    message.told[0] = replace(message.told[0], left=None)


def refuse(message: Message, words: str = LACKS) -> None:
    message.refusals.append(Refusal(at=SENT, kind="tool", text=words))


async def refuse_and_ask(trial: Trial) -> None:
    refuse(await trial.answered())


async def refuse_without_a_reason(trial: Trial) -> None:
    refuse(trial.send(), "Your organisation's daily budget ($1.00) is used up.")


async def refuse_until_no_first_of_a_month(trial: Trial) -> None:
    refuse(trial.send(), LACKS.replace("daily", "monthly"))


async def refuse_though_there_is_room(trial: Trial) -> None:
    refuse(trial.send(), LACKS.replace("$0.09", "$0.10"))


async def tell_usage(trial: Trial) -> None:
    usage = usage_of((await trial.answered()).marker)
    sums = Sums(turns=1, input_tokens=usage[0], output_tokens=usage[1], cost_nanos=nanos_of(usage), unpriced=0)
    by = {"agent": "stub", "day": DAY, "member": trial.user}
    trial.usage += [trial.told_usage(*group, sums) for group in by.items()]
    trial.usage.append(replace(trial.usage[0], whole=False))


async def tell_less_usage(trial: Trial) -> None:
    await tell_usage(trial)
    told = trial.usage[0]
    trial.usage[0] = replace(told, total=replace(told.total, turns=0))


async def tell_usage_of_another_agent(trial: Trial) -> None:
    await tell_usage(trial)
    trial.usage[0] = trial.told_usage("agent", "guide", trial.usage[0].total)


async def bill_another_usage(trial: Trial) -> None:
    await bill_more(trial)
    trial.usage.append(trial.told_usage("day", DAY, sum_of((await trial.evidence()).entries)))


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
    (lose_a_day_of_the_organization, {"days_not_ledger"}),
    (count_a_person_twice, {"days_not_ledger"}),
    (lose_a_day_of_an_agent, {"days_not_ledger"}),
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
    (leave_a_reservation, {"reservation_left"}),
    (spend_too_much, {"spent_not_bills"}),
    (forget_an_unknown_cost, {"spent_not_bills", "never_answered", "answer_lost"}),
    (let_in_too_much, {"limit_exceeded"}),
    (let_in_too_much_by_slices, {"limit_exceeded"}),
    (tell_that_less_is_left, {"left_below_overrun"}),
    (tell_nothing_of_what_is_left, {"left_not_told"}),
    (tell_another_day, {"left_not_told"}),
    (refuse_and_ask, {"refused_and_asked", "refused_in_200"}),
    (refuse_without_a_reason, {"refusal_unclear", "refused_in_200", "never_answered"}),
    (refuse_until_no_first_of_a_month, {"refusal_unclear", "refused_in_200", "never_answered"}),
    (refuse_though_there_is_room, {"refused_with_room", "refused_in_200", "never_answered"}),
    (tell_less_usage, {"usage_not_ledger"}),
    (tell_usage_of_another_agent, {"usage_not_ledger", "usage_not_the_providers"}),
    (bill_another_usage, {"bill_not_the_providers", "usage_not_the_providers"}),
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


async def test_what_the_version_before_does_not_tell_of_budgets_is_told_apart(trial: Trial) -> None:
    await tell_nothing_of_what_is_left(trial)
    evidence = await trial.evidence()
    found = check(evidence)
    assert split_known(evidence, found, [1]) == ([], found)
    assert split_known(evidence, found, []) == (found, [])


def test_every_violation_has_its_example() -> None:
    pages = (Path(str(module.__file__)) for module in (chaos.invariants, chaos.books))
    source = "".join(page.read_text(encoding="utf-8") for page in pages)
    known = set(re.findall(r'Violation\(\s*"(\w+)"', source))
    assert len(known) > 10
    assert known == {"nobody_refused"}.union(*(expected for _, expected in SPOILERS))


async def test_a_run_in_which_nothing_was_lost_has_no_violation(trial: Trial) -> None:
    first = await trial.answered()
    second = trial.send(number=1, session_id=first.told[0].session_id)
    trial.ask(second, at=10)
    second.told.append(await trial.store(second, session=first.told[0].session_id, at=10))
    assert await names(trial) == set()


async def test_budgets_and_usage_that_are_right_have_no_violation(trial: Trial) -> None:
    await tell_usage(trial)
    assert await names(trial) == set()
    trial.usage.clear()
    # It cost more than it had reserved, and more than there was.
    await trial.charged(await trial.budget(1), reserved=1)
    await trial.charged(await trial.budget(0, hard=False, period="total"))
    assert await names(trial) == set()
    refuse(trial.send())
    assert await names(trial) == {"refused_in_200", "never_answered"}


async def test_a_budget_that_refused_nobody_was_not_tried(trial: Trial) -> None:
    message = await trial.answered()
    assert [found.name for found in somebody_refused(await trial.evidence())] == ["nobody_refused"]
    refuse(message)
    assert not list(somebody_refused(await trial.evidence()))


async def test_only_who_ended_after_the_last_was_let_in_may_exceed_a_budget(trial: Trial) -> None:
    period = await trial.budget(1)
    await trial.charged(period, reserved=1)
    assert await names(trial) == set()
    await trial.charged(period, reserved=1, at=60)
    assert await names(trial) == {"limit_exceeded", "left_below_overrun"}


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
    message.refusals.append(Refusal(at=SENT, kind=kind, text="not answered"))
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
    trial.lives[0].stopping, trial.lives[0].until = SENT + 3, SENT + 23
    trial.outages.append(Outage(since=SENT + 1, until=SENT + 40))
    await trial.store(message, status="interrupted", reply=None, ended=50.0)
    assert "answer_lost" not in await names(trial)
    trial.lives[0].until = SENT + 6  # before its grace was over
    assert "answer_lost" in await names(trial)
    trial.lives[0].until = SENT + 23
    trial.outages.clear()
    assert "answer_lost" in await names(trial)


async def test_an_answer_of_a_process_that_stood_still_is_no_violation(trial: Trial) -> None:
    message = trial.send()
    trial.ask(message)
    await trial.store(message, status="interrupted", reply=None, ended=20.0)
    trial.lives[0].frozen.append(Outage(since=SENT + 1, until=SENT + 40))
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
