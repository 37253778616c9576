"""The guide's conversation: live state, follow-ups, honesty, streaming, and input that is hardly a question."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typing_extensions import override

from agentapi_mcp.backends import registry
from agentapi_mcp.backends.guide.pages import find_documentation, read_sections, split_page, trimmed
from agentapi_mcp.backends.kinds.guide import GuideBackend
from agentapi_mcp.base.errors import (
    FAULT_ADVICE,
    AgentApiError,
    BackendError,
    BackendFault,
    ConfigurationError,
    StoreUnavailableError,
)
from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.backends.events import BackendEvent, Finished, TextDelta, Usage, UsageReported
from agentapi_mcp.core.backends.models import HealthStatus, HistoryMessage, MessageRole
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.core.catalogue.health import PartHealth
from agentapi_mcp.core.catalogue.models import AgentHealth, AgentView, ModelView
from agentapi_mcp.core.conversations.models import EndReason, RouteStep, Session, Turn, TurnCost, TurnFault, TurnStatus
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.usage.models import UsageSums
from agentapi_mcp.testing.hosts import FakeHost, FakeView
from tests.support.clocks import ManualClock
from tests.support.peers.cases import backend_turn

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
GPT = ModelView(
    agent="droid",
    name="gpt-4o",
    model_id="openai/gpt-4o",
    provider="openrouter",
    description=None,
    enabled=True,
    is_default=True,
    context_window=128_000,
    max_output_tokens=None,
    prices=Prices(input=Decimal("2.50"), output=Decimal(10), source="a list", on=date(2026, 7, 2)),
)


def agent(name: str, backend: str, status: HealthStatus = HealthStatus.HEALTHY, *missing: str) -> AgentView:
    return AgentView(
        backend_reason=None,
        name=name,
        backend=backend,
        description=f"This is {name}",
        enabled=True,
        default_model=None,
        models=(GPT,) if name == "droid" else (),
        missing=missing,
        health=AgentHealth(status=status, checked_at=NOW - timedelta(minutes=3)),
        usage=UsageSums(),
    )


GUIDE = agent("guide", "guide")
DROID = agent("droid", "openai")
WITHOUT_KEY = agent("droid", "openai", HealthStatus.UNKNOWN, "OPENROUTER_API_KEY is not set")


def turn_of(message: str, status: TurnStatus = TurnStatus.COMPLETED, minutes_ago: int = 1) -> Turn:
    return Turn(
        id=TurnId(uuid4()),
        session_id=SessionId(uuid4()),
        user_id=UserId(UUID(int=1)),
        org_id=OrgId(UUID(int=2)),
        status=status,
        agent="droid",
        backend="openai",
        model="gpt-4o",
        message=message,
        reply="",
        created_at=NOW - timedelta(minutes=minutes_ago),
    )


def failed_turn(fault: BackendFault) -> Turn:
    error = TurnFault(fault, "The provider said no.", FAULT_ADVICE[fault].next_step, retry_after=timedelta(seconds=7))
    tried = RouteStep(
        agent="droid", backend="openai", model="gpt-4o", outcome=fault, latency=timedelta(milliseconds=312)
    )
    return replace(turn_of("All about cats", TurnStatus.FAILED), error=error, bill=TurnCost(route=(tried,)))


def paid_turn(cost: str | None, backend: str = "openai") -> Turn:
    usage = Usage(input_tokens=1200, output_tokens=30, cost_usd=None if cost is None else Decimal(cost))
    bill = TurnCost(usage=usage, cost_source="provider", latency=timedelta(seconds=2))
    return replace(turn_of("All about dogs"), backend=backend, bill=bill)


@dataclass
class Conversation:
    """A talk with the guide."""

    view: FakeView = field(default_factory=lambda: FakeView((WITHOUT_KEY, GUIDE)))
    history: tuple[HistoryMessage, ...] = ()

    def __post_init__(self) -> None:
        self.guide: Backend = registry.create("guide", {}, FakeHost(clock=ManualClock(at=NOW), view=self.view))

    async def events(self, message: str) -> list[BackendEvent]:
        """Ask, and keep the answer in mind."""
        turn = replace(backend_turn(message, model_id=None), history=self.history)
        events = [event async for event in self.guide.run(turn)]
        said = "".join(event.text for event in events if isinstance(event, TextDelta))
        self.history += (HistoryMessage(MessageRole.USER, message), HistoryMessage(MessageRole.ASSISTANT, said))
        return events

    async def ask(self, message: str) -> str:
        """Ask, and read the answer."""
        await self.events(message)
        return self.history[-1].text


@pytest.mark.parametrize(
    "question",
    [
        "which agents work right now?",
        "what agents are available",
        "list the agents",
        "is everything ok?",
        "what works now?",
    ],
)
async def test_which_agents_work_is_told_with_what_the_others_lack(question: str) -> None:
    said = await Conversation().ask(question)
    assert "1 of 2 agents work right now" in said
    assert "**droid**: not set up: OPENROUTER_API_KEY is not set." in said
    assert "**guide**: works, checked 3 minutes ago." in said


async def test_the_parts_of_the_server_are_told_with_what_is_wrong() -> None:
    postgres = PartHealth(name="postgres", status=HealthStatus.HEALTHY, detail="embedded")
    redis = PartHealth(name="redis", status=HealthStatus.DEGRADED, detail="by URL: Redis does not answer in time.")
    view = FakeView((GUIDE,), probed=(postgres,))
    assert "The parts of the server work: postgres." in await Conversation(view).ask("is everything healthy?")
    view.probed = (postgres, redis)
    said = await Conversation(view).ask("is everything healthy?")
    assert "**guide**: works" in said
    assert "Not all parts of the server work:\n\n- **redis**: degraded, by URL: Redis does not answer in time." in said
    assert "postgres" not in said
    assert "redis" not in await Conversation(view).ask("what did my last turn cost?")


async def test_an_agent_that_nobody_measured_is_not_called_working() -> None:
    view = FakeView((replace(DROID, health=AgentHealth()), replace(GUIDE, enabled=False)))
    said = await Conversation(view).ask("which agents work right now?")
    assert "No agent works right now" in said
    assert "nobody has measured it yet" in said
    assert "switched off" in said


async def test_a_check_by_a_clock_that_is_ahead_was_moments_ago() -> None:
    ahead = replace(GUIDE, health=AgentHealth(status=HealthStatus.HEALTHY, checked_at=NOW + timedelta(seconds=2)))
    assert "works, checked moments ago" in await Conversation(FakeView((ahead,))).ask("which agents work right now?")


async def test_models_are_told_with_window_price_and_date() -> None:
    said = await Conversation().ask("which models can I use?")
    assert "`gpt-4o`, the default: 128,000 tokens of context, $2.5 in and $10 out per million tokens" in said
    assert "as of 2026-07-02" in said


async def test_a_price_without_source_is_unknown() -> None:
    model = replace(GPT, prices=Prices(), context_window=None)
    said = await Conversation(FakeView((replace(DROID, models=(model,)),))).ask("how much does gpt-4o cost?")
    assert "context window unknown, price unknown" in said


@pytest.mark.parametrize("question", ["is droid healthy?", "what is droid missing?", "does droid work", "droid status"])
async def test_one_agent_is_told_with_what_it_lacks(question: str) -> None:
    assert "**droid** (backend `openai`): not set up: OPENROUTER_API_KEY is not set" in await Conversation().ask(
        question
    )


@pytest.mark.parametrize("question", ["how do I use a local model?", "where is my data?", "where can a file be?"])
async def test_an_agent_with_the_name_of_an_ordinary_word_takes_no_question_over(question: str) -> None:
    view = FakeView(tuple(agent(name, "openai") for name in ("local", "a", "data")))
    said = await Conversation(view).ask(question)
    assert "(backend `openai`)" not in said
    assert said == await Conversation(FakeView(())).ask(question)


@pytest.mark.parametrize("question", ["is local healthy?", "how is the agent local?", "what about `local`?"])
async def test_such_an_agent_is_told_of_where_it_is_meant(question: str) -> None:
    said = await Conversation(FakeView((agent("local", "openai"),))).ask(question)
    assert "**local** (backend `openai`)" in said


async def test_an_agent_that_fails_is_told_with_its_error() -> None:
    health = AgentHealth(status=HealthStatus.UNHEALTHY, last_error="The connection failed", consecutive_failures=4)
    said = await Conversation(FakeView((replace(DROID, health=health),))).ask("is droid up?")
    assert "does not work: The connection failed" in said
    assert "It failed 4 times in a row" in said


async def test_how_to_use_an_agent_is_told_by_its_state_and_the_documentation() -> None:
    said = await Conversation(FakeView((DROID,))).ask("how do I use droid?")
    assert "agentapi-mcp chat --agent droid" in said
    assert "(docs/how-to/add-openrouter.md#set-the-key)" in said


@pytest.mark.parametrize(
    "question",
    ["why did my last turn fail?", "what went wrong?", "why was my message refused", "what happened to my last turn?"],
)
async def test_why_a_turn_failed_is_told_with_the_next_step_and_the_route(question: str) -> None:
    view = FakeView((DROID,), (failed_turn(BackendFault.RATE_LIMIT),))
    said = await Conversation(view).ask(question)
    for fact in ("All about cats", "The provider said no.", "`rate_limit`", "Wait and send", "7.0 s", "312 ms"):
        assert fact in said


@pytest.mark.parametrize("question", ["my answer is in the wrong language", "my last message got a wrong format"])
async def test_an_answer_with_something_wrong_in_it_is_not_a_failed_turn(question: str) -> None:
    said = await Conversation(FakeView((DROID,), (failed_turn(BackendFault.RATE_LIMIT),))).ask(question)
    assert "All about cats" not in said


@pytest.mark.parametrize("fault", list(BackendFault))
async def test_every_fault_has_its_section_in_the_documentation(fault: BackendFault) -> None:
    said = await Conversation(FakeView((DROID,), (failed_turn(fault),))).ask("why did my last turn fail?")
    assert f"(docs/troubleshooting.md#{fault}-" in said


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason not in {"answered", "fault"}])
async def test_why_a_turn_ended_early_is_told(reason: EndReason) -> None:
    ended = replace(turn_of("Count", TurnStatus.INTERRUPTED), end_reason=reason, reply="one two")
    said = await Conversation(FakeView((), (ended,))).ask("why was my last turn interrupted?")
    assert "was interrupted" in said
    assert "no reason was recorded" not in said
    assert "What it had answered so far was kept" in said


async def test_a_last_turn_that_did_not_fail_is_not_called_failed() -> None:
    older = replace(failed_turn(BackendFault.AUTH), created_at=NOW - timedelta(hours=2))
    said = await Conversation(FakeView((), (turn_of("Fine"), older))).ask("why did my last turn fail?")
    assert 'Your last turn ("Fine" to droid, 1 minute ago) was answered' in said
    assert "2 hours ago" in said
    assert "Your last turn did not fail" in await Conversation(FakeView((), (turn_of("Fine"),))).ask(
        "why did my last turn fail?"
    )
    assert "no earlier turns" in await Conversation(FakeView()).ask("why did my last turn fail?")


async def test_the_last_cost_is_told_and_unknown_is_never_zero() -> None:
    view = FakeView((), (paid_turn("0", "guide"), paid_turn("0.00330"), paid_turn(None)))
    said = await Conversation(view).ask("what did my last turn cost?")
    assert "1 minute ago: $0.0033 (according to provider), 1,200 input tokens, 30 output tokens, 2.0 s." in said
    assert (
        "This month (from 2026-01-01 to 2026-01-01 12:00, UTC): $0.0033 for 3 turns, of which the cost of 1 is" in said
    )
    assert "unknown (which is not zero)." in said
    assert "nothing was spent" in await Conversation(FakeView()).ask("how much have I spent so far?")


@pytest.mark.parametrize(
    ("question", "begins"),
    [
        ("how much did I spend this month?", "This month (from 2026-05-01 to 2026-05-20 12:00, UTC): $3 for 2 turns."),
        ("how much did I spend today", "Today (from 2026-05-20 to 2026-05-20 12:00, UTC): $1 for 1 turn."),
        ("what did I spend yesterday?", "Yesterday (from 2026-05-19 to 2026-05-20, UTC): no turns"),
        ("costs this week", "This week (from 2026-05-18 to 2026-05-20 12:00, UTC): $3 for 2 turns."),
        ("what did I spend last month?", "Last month (from 2026-04-01 to 2026-05-01, UTC): $4 for 1 turn."),
        (
            "my costs in the last 3 days",
            "In the last 3 days (from 2026-05-17 12:00 to 2026-05-20 12:00, UTC): $3 for 2",
        ),
        ("how much have I spent this year?", "This year (from 2026-01-01 to 2026-05-20 12:00, UTC): $7 for 3 turns."),
        ("what have I paid in total?", "Altogether: $15 for 4 turns."),
    ],
)
async def test_what_was_spent_in_a_period_is_the_sum_of_that_period(question: str, begins: str) -> None:
    now = datetime(2026, 5, 20, 12, tzinfo=UTC)

    def paid(cost: str, at: datetime) -> Turn:
        return replace(paid_turn(cost), created_at=at)

    turns = (
        paid("1", now - timedelta(hours=1)),
        paid("2", datetime(2026, 5, 18, 0, 0, tzinfo=UTC)),
        paid("4", datetime(2026, 4, 30, 23, 59, tzinfo=UTC)),
        paid("8", datetime(2025, 12, 31, tzinfo=UTC)),
    )
    guide = registry.create("guide", {}, FakeHost(clock=ManualClock(at=now), view=FakeView((), turns)))
    events = [event async for event in guide.run(backend_turn(question, model_id=None))]
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert said.startswith(begins)
    assert "What you deleted is in it, too." in said or "no turns" in said


@pytest.mark.parametrize(
    "question",
    ["how do I get a csv of my costs?", "how do I see what I spent?", "what did each member spend this month?"],
)
async def test_how_to_see_costs_and_those_of_others_are_not_ones_own_costs(question: str) -> None:
    assert "so nothing was spent" not in await Conversation().ask(question)


@pytest.mark.parametrize(
    "question",
    [
        "what are my sessions?",
        "list my chats",
        "show my last conversations",
        "show me my last 5 conversations",
        "my sessions",
        "which sessions do I have",
    ],
)
async def test_ones_own_sessions_are_listed_with_how_to_go_on(question: str) -> None:
    talk = Session(
        id=SessionId(UUID(int=7)),
        title="All\nabout cats",
        agent="droid",
        model=None,
        metadata={},
        created_at=NOW - timedelta(days=2),
        last_message_at=NOW - timedelta(hours=3),
    )
    said = await Conversation(FakeView((), talks=(talk,))).ask(question)
    assert f'- "All about cats": with droid, 3 hours ago, `{UUID(int=7)}`' in said
    assert "`agentapi-mcp sessions list`" in said
    assert "You have no sessions yet." in await Conversation(FakeView()).ask(question)


@pytest.mark.parametrize(
    "question",
    ["how do I list my sessions?", "where are my chats?", "what happens to my sessions?", "delete my sessions"],
)
async def test_what_is_asked_about_sessions_is_answered_from_the_pages(question: str) -> None:
    assert "You have no sessions yet." not in await Conversation(FakeView()).ask(question)


async def test_the_state_that_cannot_be_read_is_admitted_and_the_documentation_still_answers() -> None:
    conversation = Conversation(TroubledView(StoreUnavailableError("The database is down; try again.")))
    said = await conversation.ask("which agents work right now?")
    assert "I could not read the server's live state just now. The database is down; try again." in said
    assert "(docs/turns.md#cancelling-a-turn)" in await conversation.ask("how do I cancel a turn?")


@pytest.mark.parametrize(
    "message", ["hello", "Hi!", "who are you?", "what can you do?", "are you ChatGPT?", "help", "???"]
)
async def test_a_greeting_is_answered_by_what_it_is_and_what_works(message: str) -> None:
    said = await Conversation().ask(message)
    assert "I am not a language model" in said
    assert "1 of 2 agents work right now" in said
    assert "1. How do I add OpenRouter?" in said


async def test_an_unknown_topic_is_admitted_with_topics_it_can_answer() -> None:
    said = await Conversation().ask("What is the capital of France?")
    assert "I found nothing in the documentation" in said
    assert "- Turns (docs/turns.md)" in said
    assert "docs/design" not in said


async def test_a_short_question_leans_on_the_one_before() -> None:
    conversation = Conversation()
    await conversation.ask("How long does a turn wait for an answer?")
    assert "(docs/turns.md#cancelling-a-turn)" in await conversation.ask("and how do I cancel it?")


async def test_more_goes_on_to_what_was_not_shown() -> None:
    conversation = Conversation()
    first = await conversation.ask("How do I add OpenRouter?")
    more = await conversation.ask("tell me more")
    assert "(docs/how-to/add-openrouter.md#set-the-key)\n" in first
    assert "(docs/how-to/add-openrouter.md#set-the-key)\n" not in more
    assert "(docs/how-to/add-openrouter.md#" in more


async def test_a_number_chooses_a_suggested_question() -> None:
    conversation = Conversation()
    assert "3. How do I connect Claude Code?" in await conversation.ask("hello")
    assert "(docs/how-to/connect-a-client.md#claude-code)" in await conversation.ask("3")


async def test_an_answer_streams_in_pieces_and_costs_nothing_that_is_known() -> None:
    events = await Conversation().events("How do I add OpenRouter?")
    pieces = [event for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 5
    assert events[len(pieces) :] == [UsageReported(Usage(0, 0, cost_usd=Decimal(0))), Finished()]


@pytest.mark.parametrize("message", ["", " ", "\n\t", "\u200b", "🙂", "\x00", "\ud800", "-" * 100, "1", "🙂 " * 5000])
async def test_what_is_hardly_a_question_is_answered_all_the_same(message: str) -> None:
    assert "I am not a language model" in await Conversation().ask(message)


@pytest.mark.parametrize("filler", ["word ", "a.", "_", "[", "how ", "(" * 9 + "\n", "what is "])
async def test_five_megabytes_are_read_at_both_ends_and_answered(filler: str) -> None:
    conversation = Conversation()
    said = await conversation.ask("How do I add OpenRouter?\n" + filler * (5_000_000 // len(filler)))
    await conversation.ask("tell me more")
    assert said


async def test_a_question_in_progress_can_be_cancelled() -> None:
    view = BlockedView()
    conversation = Conversation(view)
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(conversation.ask("which agents work?"))
        await view.asked.wait()
        asking.cancel()
    assert asking.cancelled()
    view.go_on.set()
    assert "Every agent works" in await conversation.ask("which agents work?")


async def test_an_answer_can_be_closed_in_mid_stream() -> None:
    async with aclosing(Conversation().guide.run(backend_turn("How do I add OpenRouter?"))) as events:
        assert isinstance(await anext(events), TextDelta)
    assert [event async for event in events] == []


async def test_options_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="no options; remove api_key, model"):
        registry.create("guide", {"model": 1, "api_key": "sk-secret"}, FakeHost())


async def test_it_can_be_checked_after_it_was_closed() -> None:
    guide = Conversation().guide
    await guide.aclose()
    assert (await guide.check()).status is HealthStatus.HEALTHY


def test_a_page_is_cut_at_headings_outside_of_fences() -> None:
    text = "# Page\n\n<!-- asks: why? | how? -->\nHello [x](../turns.md#a).\n\n```sh\n# no heading\n```\n"
    text += "\n## `Part` one\n\nText\n"
    first, second = (section for section in split_page("how-to/page.md", text) if section.body)
    assert (first.heading, first.source, first.asks) == ("Page", "docs/how-to/page.md", ("why?", "how?"))
    assert first.body == "Hello x (docs/turns.md).\n\n```sh\n# no heading\n```"
    assert (second.title, second.heading, second.source) == ("Page", "Part one", "docs/how-to/page.md#part-one")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[another one\ncomes first](../agents.md#first)", "another one\ncomes first (docs/agents.md)"),
        ("unless [`[roles]`](sign-in.md#roles) says so", "unless `[roles]` (docs/how-to/sign-in.md) says so"),
        ("[open, then [turns](../turns.md)", "[open, then turns (docs/turns.md)"),
        ("[one\n\ntwo](../turns.md)", "[one\n\ntwo](../turns.md)"),  # a blank line ends a paragraph and its links
    ],
)
def test_a_relative_link_becomes_the_name_of_its_page(written: str, shown: str) -> None:
    assert next(iter(split_page("how-to/page.md", written))).body == shown


def test_a_long_section_is_cut_between_blocks_and_says_where_the_rest_is() -> None:
    section = next(iter(split_page("page.md", "first\n\n```\na\n\nb\n```\n\nlast")))
    assert trimmed(section, 10) == "first\n\n(The rest is in docs/page.md.)"
    assert trimmed(section, 20) == "first\n\n```\na\n\nb\n```\n\n(The rest is in docs/page.md.)"
    assert trimmed(section, 90) == section.body


def test_what_a_colon_announces_is_shown_with_it() -> None:
    section = next(iter(split_page("page.md", "like this:\n\n```\na\n```\n\nand that:\n\n- b\n\nthe end\n")))
    rest = "(The rest is in docs/page.md.)"
    assert trimmed(section, 10) == f"like this:\n\n```\na\n```\n\n{rest}"
    assert trimmed(section, 30) == f"like this:\n\n```\na\n```\n\n{rest}"
    assert trimmed(section, 40) == f"like this:\n\n```\na\n```\n\nand that:\n\n- b\n\n{rest}"


async def test_a_guide_without_documentation_is_unhealthy_and_says_so(tmp_path: Path) -> None:
    guide = GuideBackend(FakeHost(), partial(find_documentation, tmp_path / "lib" / "agentapi_mcp"))
    check = await guide.check()
    assert check.status is HealthStatus.UNHEALTHY
    assert check.error is not None
    assert "reinstall" in check.error
    with pytest.raises(BackendError) as caught:
        await anext(guide.run(backend_turn("hello")))
    assert caught.value.fault is BackendFault.BACKEND_MISSING


def test_documentation_is_found_inside_an_installed_package(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "agentapi_mcp"
    (package / "docs").mkdir(parents=True)
    (package / "docs" / "index.md").write_text("# Start\n\nHere.\n")
    assert [section.source for section in read_sections(find_documentation(package))] == ["docs/index.md"]


def test_documentation_is_found_in_a_clone() -> None:
    place = find_documentation()
    assert isinstance(place, Path)
    assert (place / "turns.md").is_file()


class TroubledView(FakeView):
    """A server that cannot show its state."""

    def __init__(self, error: AgentApiError) -> None:
        super().__init__()
        self._error = error

    @override
    async def agents(self, principal: Principal) -> tuple[AgentView, ...]:
        """Fail."""
        del principal
        raise self._error


class BlockedView(FakeView):
    """A server that shows its state when the test says so."""

    def __init__(self) -> None:
        super().__init__((GUIDE,))
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    @override
    async def agents(self, principal: Principal) -> tuple[AgentView, ...]:
        """Wait for the test."""
        self.asked.set()
        await self.go_on.wait()
        return await super().agents(principal)
