"""The contract of every backend, as tests.

A package that provides a backend inherits them:

    class TestEcho(BackendContract):
        cases = (EchoCase(),)
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from typing import ClassVar
from uuid import uuid4

import pytest
from pydantic import SecretStr
from typing_extensions import override

from agentapi_mcp.backends import registry
from agentapi_mcp.backends.wire.redaction import HIDDEN
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    TextDelta,
    ThoughtDelta,
    Usage,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn, HealthStatus, HistoryMessage, MessageRole
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.keys.mending import Payer
from agentapi_mcp.core.keys.models import KeySource
from agentapi_mcp.testing.hostile import HOSTILE_TEXTS
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.peers import (
    COUNTED,
    FAULTS,
    REASON,
    REFUSED,
    STOPS,
    BackendCase,
    BackendDeadlines,
    Behaviour,
    Peer,
)
from agentapi_mcp.testing.waiting import expect_soon

PATIENT = BackendDeadlines()
ASKED = timedelta(seconds=1)  # long enough for the request to reach the agent, also on a busy machine
HASTY = BackendDeadlines(idle=ASKED, total=ASKED * 1.5)
TIMEOUTS = {BackendFault.TIMEOUT_IDLE, BackendFault.TIMEOUT_TOTAL}
LONGEST_ERROR = 400
_LONGEST = 77
MENDED_BY = {
    KeySource.SERVER: "HOUSE_KEY",
    KeySource.USER: "`agentapi-mcp keys add house`",
    KeySource.ORGANIZATION: "`agentapi-mcp keys add house --organization`",
    KeySource.ACCOUNT: "`agentapi-mcp accounts connect house`",
}
OWN_KEY = SecretStr("own-0123456789-canary")


@dataclass(frozen=True)
class Rig:
    """A backend beside its running peer."""

    case: BackendCase
    peer: Peer
    host: FakeHost
    options: Mapping[str, object]
    backend: Backend

    def turn(self, behaviour: Behaviour) -> BackendTurn:
        """Build a turn that triggers this behaviour."""
        return self.peer.turn(self.case.words[behaviour])

    def declares(self, capability: Capability) -> bool:
        """Return whether the backend declares the capability."""
        return capability in self.backend.capabilities

    def another_backend(self) -> Backend:
        """Create a second backend with the same options, as after a restart of the server."""
        return registry.create(self.case.kind, self.options, self.host)


@asynccontextmanager
async def open_rig(case: BackendCase, variant: str, deadlines: BackendDeadlines = PATIENT) -> AsyncGenerator[Rig]:
    """Start the peer, and create its backend by the name in the configuration."""
    async with FakeHost() as host, case.start(variant) as peer:
        options = peer.options(deadlines)
        rig = Rig(case, peer, host, options, registry.create(case.kind, options, host))
        try:
            yield rig
        finally:
            await rig.backend.aclose()


@dataclass(frozen=True)
class Subject:
    """A variant of a backend, not started yet."""

    case: BackendCase
    variant: str

    @override
    def __str__(self) -> str:
        return f"{self.case.kind}-{self.variant}"

    def open(self, deadlines: BackendDeadlines = PATIENT) -> AbstractAsyncContextManager[Rig]:
        """Start the peer and the backend."""
        return open_rig(self.case, self.variant, deadlines)

    def need(self, *behaviours: Behaviour) -> None:
        """Skip the test if the agent cannot show a behaviour, with the reason that the case gives."""
        for behaviour in behaviours:
            if reason := self.case.not_applicable.get(behaviour):
                pytest.skip(reason)

    def need_outside(self) -> None:
        """Skip the test if the backend uses nothing outside this process."""
        if reason := self.case.unreachable:
            pytest.skip(reason)


async def events_of(backend: Backend, turn: BackendTurn) -> list[BackendEvent]:
    """Run a turn to its end and return its events."""
    return [event async for event in backend.run(turn)]


async def failure_of(backend: Backend, turn: BackendTurn) -> BackendError:
    """Run a turn that fails and return its error."""
    with pytest.raises(BackendError) as caught:
        await events_of(backend, turn)
    return caught.value


async def outcome_of(backend: Backend, turn: BackendTurn) -> tuple[list[BackendEvent], BackendError | None]:
    """Run a turn, and return its events with the error that ended it, if any."""
    events: list[BackendEvent] = []
    try:
        async with aclosing(backend.run(turn)) as running:
            async for event in running:
                events.append(event)  # noqa: PERF401  # events before a failure are returned too
    except BackendError as error:
        return events, error
    return events, None


def text_of(events: list[BackendEvent]) -> str:
    """Join the text of the answer."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def usage_of(events: list[BackendEvent]) -> Usage:
    """Return the usage that was reported last; all of it is unknown if none was."""
    return next((event.usage for event in reversed(events) if isinstance(event, UsageReported)), Usage())


def end_of(events: list[BackendEvent]) -> Finished:
    """Return the `Finished` event, which must be the last and the only one."""
    assert [place for place, event in enumerate(events) if isinstance(event, Finished)] == [len(events) - 1]
    end = events[-1]
    assert isinstance(end, Finished)
    return end


def prefixed(turn: BackendTurn, words: str) -> BackendTurn:
    """Put text before the message; the peer still finds its word at the end."""
    return replace(turn, message=f"{words}\n\n{turn.message}")


def _without_state(events: list[BackendEvent]) -> list[BackendEvent]:
    return [replace(event, state={}) if isinstance(event, Finished) else event for event in events]


@pytest.mark.asyncio
class BackendContract:
    """What the server requires of a backend, depending on the capabilities that it declares."""

    cases: ClassVar[tuple[BackendCase, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for every variant of every case."""
        if not self.cases:
            raise pytest.UsageError(f"{type(self).__name__} tests nothing: set cases")
        subjects = [Subject(case, variant) for case in self.cases for variant in case.variants]
        metafunc.parametrize("subject", subjects, ids=str)

    # --- the case itself

    async def test_every_behaviour_has_its_word_or_its_reason(self, subject: Subject) -> None:
        """Every behaviour that the suite skips has a reason."""
        words, reasons = subject.case.words.keys(), subject.case.not_applicable
        assert not words & reasons.keys()
        assert words | reasons.keys() == set(Behaviour)
        assert all(reason.strip() for reason in reasons.values())

    # --- answers

    async def test_an_answer_is_text_and_exactly_one_end(self, subject: Subject) -> None:
        """`Finished` comes once, as the last event."""
        async with subject.open() as rig:
            events = await events_of(rig.backend, rig.turn(Behaviour.ANSWERS))
        end_of(events)
        assert text_of(events).strip()

    async def test_two_turns_at_once_do_not_mix(self, subject: Subject) -> None:
        """Each of two concurrent turns has the same events as a turn alone."""
        async with subject.open() as rig:
            alone = await events_of(rig.backend, rig.turn(Behaviour.ANSWERS))
            async with asyncio.TaskGroup() as tasks:
                turns = [rig.turn(Behaviour.ANSWERS) for _ in range(2)]
                both = [tasks.create_task(events_of(rig.backend, turn)) for turn in turns]
        assert [_without_state(task.result()) for task in both] == [_without_state(alone)] * 2

    async def test_any_text_is_answered_or_refused(self, subject: Subject) -> None:
        """A turn with text that cannot be encoded or printed ends like any other."""
        async with subject.open() as rig:
            for text in HOSTILE_TEXTS:
                turn = prefixed(rig.turn(Behaviour.ANSWERS), text)
                history = (HistoryMessage(MessageRole.USER, text), HistoryMessage(MessageRole.ASSISTANT, text))
                events, error = await outcome_of(rig.backend, replace(turn, system=text, history=history))
                assert error is not None or end_of(events)
                assert str(error).isprintable()

    @pytest.mark.parametrize("behaviour", list(STOPS))
    async def test_why_an_answer_is_not_whole_is_told(self, subject: Subject, behaviour: Behaviour) -> None:
        """The text is kept, and `Finished` has the reason."""
        subject.need(behaviour)
        async with subject.open() as rig:
            events = await events_of(rig.backend, rig.turn(behaviour))
        assert end_of(events).stop_reason is STOPS[behaviour]
        assert text_of(events).strip()

    @pytest.mark.parametrize("behaviour", [Behaviour.ODD, Behaviour.LINGERS, Behaviour.BABBLES, Behaviour.FAILS_AFTER])
    async def test_a_whole_answer_stays_one(self, subject: Subject, behaviour: Behaviour) -> None:
        """What means nothing is passed over, and what goes wrong after the answer is a warning, without waiting."""
        subject.need(behaviour)
        said: list[str] = []
        ends: list[Finished] = []

        async def ask(behaviour: Behaviour) -> None:
            events = await events_of(rig.backend, rig.turn(behaviour))
            said.append(text_of(events))
            ends.append(end_of(events))

        async with subject.open() as rig:
            await ask(Behaviour.ANSWERS)
            await expect_soon(ask(behaviour), "the answer is known to be whole")
        assert said[1] == said[0]
        assert bool(ends[1].warning) is (behaviour in {Behaviour.BABBLES, Behaviour.FAILS_AFTER})

    async def test_reasoning_is_no_part_of_the_reply(self, subject: Subject) -> None:
        """Reasoning that is marked in the text is thought."""
        subject.need(Behaviour.REASONS)
        async with subject.open() as rig:
            answer = await events_of(rig.backend, rig.turn(Behaviour.ANSWERS))
            events = await events_of(rig.backend, rig.turn(Behaviour.REASONS))
        assert text_of(events) == text_of(answer)
        assert "".join(event.text for event in events if isinstance(event, ThoughtDelta)).strip()

    # --- failures

    @pytest.mark.parametrize("behaviour", list(FAULTS))
    async def test_a_failure_is_told_as_its_fault(self, subject: Subject, behaviour: Behaviour) -> None:
        """Each misbehaviour raises the `BackendError` of its fault, with a message for users."""
        subject.need(behaviour)
        async with subject.open() as rig:
            error = await failure_of(rig.backend, rig.turn(behaviour))
        assert error.fault is FAULTS[behaviour]
        assert 0 < len(str(error)) < LONGEST_ERROR

    @pytest.mark.parametrize("behaviour", list(FAULTS))
    async def test_a_refusal_costs_nothing_and_what_another_failure_costs_is_not_known(
        self, subject: Subject, behaviour: Behaviour
    ) -> None:
        """The error is unbilled where the agent did no work, and never after a first piece of an answer."""
        subject.need(behaviour)
        async with subject.open() as rig:
            error = await failure_of(rig.backend, rig.turn(behaviour))
        is_whole = behaviour is Behaviour.FAILS_BY_NAME and not subject.case.in_pieces(subject.variant)
        is_refusal = behaviour in REFUSED or is_whole  # without pieces, there is no answer before it
        assert error.unbilled is (is_refusal and subject.case.bills_refusals is None)

    @pytest.mark.parametrize("behaviour", [Behaviour.UNAUTHORIZED, Behaviour.NO_CREDIT])
    async def test_a_key_that_is_refused_or_spent_is_mended_by_what_the_next_step_names(
        self, subject: Subject, behaviour: Behaviour
    ) -> None:
        """The next step names the variable or the command of whoever pays."""
        subject.need(behaviour)
        async with subject.open() as rig:
            error = await failure_of(rig.backend, rig.turn(behaviour))
        for source, named in MENDED_BY.items():
            assert named in Payer(source, "house", ("HOUSE_KEY",)).mends(error)

    async def test_a_busy_agent_says_when_to_come_back(self, subject: Subject) -> None:
        """The agent's own Retry-After reaches the caller."""
        subject.need(Behaviour.BUSY)
        async with subject.open() as rig:
            error = await failure_of(rig.backend, rig.turn(Behaviour.BUSY))
        assert error.may_retry
        assert error.retry_after
        assert error.retry_after > timedelta(0)

    async def test_an_agent_that_is_not_there_refuses_the_connection(self, subject: Subject) -> None:
        """An unreachable agent is a connection fault."""
        subject.need_outside()
        async with subject.open() as rig:
            await rig.peer.stop()
            error = await failure_of(rig.backend, rig.turn(Behaviour.ANSWERS))
        assert error.fault is BackendFault.CONNECTION
        assert error.unbilled

    async def test_no_secret_and_no_prompt_is_seen(self, subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
        """Events, errors, representations and the log contain no secret, path or traceback."""
        caplog.set_level(logging.DEBUG)
        case = subject.case
        seen: list[str] = []
        async with subject.open() as rig:
            for behaviour in {Behaviour.ANSWERS, *FAULTS} - case.not_applicable.keys():
                events, error = await outcome_of(rig.backend, rig.turn(behaviour))
                seen += [*map(repr, events), str(error), repr(error)]
            seen += [repr(await rig.backend.check()), repr(rig.backend)]
            prompt = rig.turn(Behaviour.ANSWERS).message
        logged = [record.getMessage() for record in caplog.records]
        for secret in case.secrets:
            assert not [line for line in (*seen, *logged) if secret in line]
        assert not [line for line in logged if prompt in line]
        assert not [line for line in seen if "/srv/" in line or "Traceback" in line]

    # --- deadlines and cancellation

    @pytest.mark.parametrize("behaviour", [Behaviour.HANGS, Behaviour.WAITS])
    async def test_an_agent_that_falls_silent_is_given_up_and_freed(
        self, subject: Subject, behaviour: Behaviour
    ) -> None:
        """A deadline also ends the turn at the agent."""
        subject.need(behaviour)
        async with subject.open(HASTY) as rig:
            error = await failure_of(rig.backend, rig.turn(behaviour))
            await rig.peer.freed()
        assert error.fault in TIMEOUTS
        assert not error.unbilled

    async def test_an_agent_without_end_is_given_up_and_freed(self, subject: Subject) -> None:
        """Activity does not extend the total deadline."""
        subject.need(Behaviour.DRIPS)
        async with subject.open(replace(PATIENT, total=ASKED)) as rig:
            error = await failure_of(rig.backend, rig.turn(Behaviour.DRIPS))
            await rig.peer.freed()
        assert error.fault is BackendFault.TIMEOUT_TOTAL

    @pytest.mark.parametrize("behaviour", [Behaviour.HANGS, Behaviour.WAITS])
    async def test_cancelling_the_task_frees_the_agent(self, subject: Subject, behaviour: Behaviour) -> None:
        """A cancelled turn ends at the agent, and the backend still works."""
        subject.need(behaviour)
        async with subject.open() as rig:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(events_of(rig.backend, rig.turn(behaviour)))
                await rig.peer.turn_received()
                running.cancel()
                await rig.peer.freed()
            assert running.cancelled()
            end_of(await events_of(rig.backend, rig.turn(Behaviour.ANSWERS)))

    async def test_closing_the_iterator_frees_the_agent(self, subject: Subject) -> None:
        """A turn that its reader abandons ends at the agent."""
        subject.need(Behaviour.WAITS)
        if not subject.case.in_pieces(subject.variant):
            pytest.skip("the answer comes whole: there is no moment within it")
        async with subject.open() as rig:
            async with aclosing(rig.backend.run(rig.turn(Behaviour.WAITS))) as events:
                while not isinstance(await anext(events), TextDelta):
                    pass
            await expect_soon(rig.peer.freed(), "the agent sees that nobody waits for it")

    # --- capability: STOPS_BILLING, LIVE, FREE_CHECK

    async def test_who_stops_billing_can_be_stopped_or_costs_nothing(self, subject: Subject) -> None:
        """STOPS_BILLING requires an agent that is freed, as above, or a cost of zero."""
        async with subject.open() as rig:
            events = await events_of(rig.backend, rig.turn(Behaviour.ANSWERS))
            declared = rig.declares(Capability.STOPS_BILLING)
        costs = [event.usage.cost_usd for event in events if isinstance(event, UsageReported)]
        freed = {Behaviour.HANGS, Behaviour.WAITS} <= subject.case.words.keys()
        assert not declared or freed or (costs and costs[-1] == 0)

    async def test_who_is_asked_again_each_time_costs_nothing(self, subject: Subject) -> None:
        """LIVE, whose turns no other request joins, requires a cost of zero."""
        async with subject.open() as rig:
            events = await events_of(rig.backend, rig.turn(Behaviour.ANSWERS))
            declared = rig.declares(Capability.LIVE)
        costs = [event.usage.cost_usd for event in events if isinstance(event, UsageReported)]
        assert not declared or (costs and costs[-1] == 0)

    async def test_a_check_tells_how_the_agent_is_and_asks_no_turn(self, subject: Subject) -> None:
        """With FREE_CHECK a running agent is healthy; without it the status may be unknown. A check runs no turn."""
        async with subject.open() as rig:
            status = (await rig.backend.check()).status
            unknown = set[HealthStatus]() if rig.declares(Capability.FREE_CHECK) else {HealthStatus.UNKNOWN}
            assert status in {HealthStatus.HEALTHY, *unknown}
            assert rig.peer.credentials() == []

    async def test_a_check_of_an_agent_that_is_not_there_is_unhealthy(self, subject: Subject) -> None:
        """With FREE_CHECK the check has the error; without it the status may be unknown. A check never raises."""
        subject.need_outside()
        async with subject.open() as rig:
            await rig.peer.stop()
            check = await rig.backend.check()
            if check.status is HealthStatus.UNKNOWN:
                assert not rig.declares(Capability.FREE_CHECK)
                return
        assert check.status is HealthStatus.UNHEALTHY
        assert check.error

    # --- capability: RESUME

    async def test_history_is_known_to_an_agent_that_has_no_state(self, subject: Subject) -> None:
        """A turn without state carries its history, also with RESUME: another agent may have answered in between."""
        subject.need(Behaviour.RECALLS)
        secret = uuid4().hex
        history = (HistoryMessage(MessageRole.USER, secret), HistoryMessage(MessageRole.ASSISTANT, "Noted."))
        async with subject.open() as rig:
            events = await events_of(rig.backend, replace(rig.turn(Behaviour.RECALLS), history=history))
        assert secret in text_of(events)

    async def test_a_history_that_others_wrote_is_told_as_the_agent_takes_it(self, subject: Subject) -> None:
        """Other programs leave what strict templates refuse: the assistant first, nothing said, one role twice."""
        subject.need(Behaviour.RECALLS)
        secret, roles = uuid4().hex, MessageRole
        history = (
            HistoryMessage(roles.ASSISTANT, "Hello."),
            HistoryMessage(roles.USER, secret),
            HistoryMessage(roles.USER, " "),
            HistoryMessage(roles.TOOL, "found"),
            HistoryMessage(roles.ASSISTANT, ""),
            HistoryMessage(roles.SYSTEM, "Be brief."),
            HistoryMessage(roles.ASSISTANT, "Noted."),
            HistoryMessage(roles.USER, "one"),
        )
        async with subject.open() as rig:
            events = await events_of(rig.backend, replace(rig.turn(Behaviour.RECALLS), history=history))
        assert secret in text_of(events)

    async def test_a_state_is_resumed_by_the_next_process(self, subject: Subject) -> None:
        """With RESUME the state alone is enough to continue, also after a restart; without it there is no state."""
        secret = uuid4().hex
        async with subject.open() as rig:
            first = prefixed(rig.turn(Behaviour.ANSWERS), secret)
            state = end_of(await events_of(rig.backend, first)).state
            if not rig.declares(Capability.RESUME):
                assert state == {}
                return
            assert state
            subject.need(Behaviour.RECALLS)
            await rig.backend.aclose()
            other = rig.another_backend()
            try:
                again = replace(rig.turn(Behaviour.RECALLS), session_id=first.session_id, state=state)
                events = await events_of(other, again)
            finally:
                await other.aclose()
        assert secret in text_of(events)
        assert end_of(events).warning is None

    async def test_a_state_that_is_unknown_is_no_failure(self, subject: Subject) -> None:
        """With RESUME the answer warns of an unknown state; without it the state is ignored."""
        async with subject.open() as rig:
            turn = rig.turn(Behaviour.ANSWERS)
            state = end_of(await events_of(rig.backend, turn)).state
            lost = dict.fromkeys(state or {"session": ""}, uuid4().hex)
            events = await events_of(rig.backend, replace(rig.turn(Behaviour.ANSWERS), state=lost))
            assert bool(end_of(events).warning) is rig.declares(Capability.RESUME)
        assert text_of(events).strip()

    # --- capabilities: OWN_KEYS, OWN_ACCOUNTS

    async def test_a_callers_key_is_used_for_their_turn_alone(self, subject: Subject) -> None:
        """With OWN_KEYS it replaces the operator's key; without it, it is not sent."""
        async with subject.open() as rig:
            turns = [replace(rig.turn(Behaviour.ANSWERS), api_key=OWN_KEY), rig.turn(Behaviour.ANSWERS)]
            seen = list(chain.from_iterable([await events_of(rig.backend, turn) for turn in turns]))
            sent = [credential == OWN_KEY.get_secret_value() for credential in rig.peer.credentials()]
            expected = [True, False] if rig.declares(Capability.OWN_KEYS) else [False] * len(sent)
        assert sent == expected
        assert OWN_KEY.get_secret_value() not in repr(seen)

    async def test_the_token_of_a_callers_account_is_used_for_their_turn_alone(self, subject: Subject) -> None:
        """With OWN_ACCOUNTS it replaces the operator's key; without it, it is not sent."""
        async with subject.open() as rig:
            turns = [replace(rig.turn(Behaviour.ANSWERS), access_token=OWN_KEY), rig.turn(Behaviour.ANSWERS)]
            seen = list(chain.from_iterable([await events_of(rig.backend, turn) for turn in turns]))
            sent = [credential == OWN_KEY.get_secret_value() for credential in rig.peer.credentials()]
            expected = [True, False] if rig.declares(Capability.OWN_ACCOUNTS) else [False] * len(sent)
        assert sent == expected
        assert OWN_KEY.get_secret_value() not in repr(seen)

    # --- capabilities: LIMITS_ANSWERS

    async def test_the_longest_answer_is_passed_on(self, subject: Subject) -> None:
        """With LIMITS_ANSWERS the agent is told of it, so that what a turn may cost can be said before it is asked."""
        async with subject.open() as rig:
            await events_of(rig.backend, replace(rig.turn(Behaviour.ANSWERS), max_tokens=_LONGEST))
            if rig.declares(Capability.LIMITS_ANSWERS):
                assert rig.peer.limits() == [_LONGEST]

    async def test_a_callers_key_that_the_agent_repeats_is_hidden(self, subject: Subject) -> None:
        """The key is redacted from the agent's error."""
        subject.need(Behaviour.LEAKS)
        async with subject.open() as rig:
            error = await failure_of(rig.backend, replace(rig.turn(Behaviour.LEAKS), api_key=OWN_KEY))
        assert error.fault is BackendFault.AUTH
        assert OWN_KEY.get_secret_value() not in f"{error} {error!r}"

    @pytest.mark.parametrize("api_key", [None, OWN_KEY], ids=["operator's", "caller's"])
    async def test_a_key_that_the_agent_repeats_in_its_answer_is_hidden(
        self, subject: Subject, api_key: SecretStr | None
    ) -> None:
        """The key that was sent is redacted from every event; the rest of the answer is as the agent said it."""
        subject.need(Behaviour.REPEATS)
        async with subject.open() as rig:
            events = await events_of(rig.backend, replace(rig.turn(Behaviour.REPEATS), api_key=api_key))
        assert end_of(events)
        assert HIDDEN in text_of(events)
        assert not text_of(events).strip().startswith(HIDDEN)
        assert not text_of(events).strip().endswith(HIDDEN)
        for secret in (*subject.case.secrets, OWN_KEY.get_secret_value()):
            assert secret not in text_of(events)
            assert secret not in repr(events)

    # --- the agent's own words and figures

    async def test_the_reason_reaches_the_caller_in_the_agents_words(self, subject: Subject) -> None:
        """The words of the agent's error are shown, wherever they stand in it; the fault follows them."""
        subject.need(Behaviour.EXPLAINS)
        async with subject.open() as rig:
            error = await failure_of(rig.backend, rig.turn(Behaviour.EXPLAINS))
        assert REASON in str(error)
        assert not error.may_retry

    async def test_when_to_come_back_is_read_from_the_agents_words(self, subject: Subject) -> None:
        """Where no header and no field says it, the words do."""
        subject.need(Behaviour.SAYS_WHEN)
        async with subject.open() as rig:
            error = await failure_of(rig.backend, rig.turn(Behaviour.SAYS_WHEN))
        assert error.retry_after == timedelta(seconds=2.5)

    async def test_counts_may_come_as_text(self, subject: Subject) -> None:
        """A count is one in whatever type of JSON it comes."""
        subject.need(Behaviour.COUNTS_IN_TEXT)
        async with subject.open() as rig:
            usage = usage_of(await events_of(rig.backend, rig.turn(Behaviour.COUNTS_IN_TEXT)))
        assert (usage.input_tokens, usage.output_tokens) == COUNTED

    async def test_what_is_not_counted_is_unknown_and_not_zero(self, subject: Subject) -> None:
        """An answer has used some tokens, so zeros say that nobody counted."""
        subject.need(Behaviour.UNCOUNTED)
        async with subject.open() as rig:
            events = await events_of(rig.backend, rig.turn(Behaviour.UNCOUNTED))
        assert text_of(events).strip()
        assert usage_of(events) == Usage()
