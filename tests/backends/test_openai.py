"""What is particular to Chat Completions and to OpenRouter; the contract is tested for all kinds together."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    SignOfLife,
    StopReason,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    ToolState,
    Usage,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn, HealthStatus, HistoryMessage, MessageRole
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.http import Pace, Ticks
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.peers.cases import backend_turn
from tests.support.peers.openai import KEY, OpenAIPeer

FULL_USAGE = Usage(input_tokens=11, output_tokens=5, cached_tokens=4, reasoning_tokens=2)
BOTH = pytest.mark.parametrize("stream", [True, False])


@dataclass(frozen=True)
class BackendSetup:
    """A peer and a backend beside it."""

    peer: OpenAIPeer
    backend: Backend

    async def ask(self, model: str, turn: BackendTurn | None = None) -> list[BackendEvent]:
        """Run a turn to its end."""
        turn = replace(turn or backend_turn(), model_id=model)
        return [event async for event in self.backend.run(turn)]

    async def fail(self, model: str) -> BackendError:
        """Run a turn that fails."""
        with pytest.raises(BackendError) as caught:
            await self.ask(model)
        return caught.value


@asynccontextmanager
async def open_setup(
    *, pace: Pace | None = None, path: str = "/api/v1", **options: object
) -> AsyncGenerator[BackendSetup]:
    async with FakeHost() as host, OpenAIPeer(pace=pace) as peer:
        provider = {"provider": "openrouter"} if path == "/api/v1" else {}
        given = {"base_url": peer.origin + path, "api_key": KEY} | provider | options
        yield BackendSetup(peer, registry.create("openai", given, host))


def text_of(events: list[BackendEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def of_kind(events: list[BackendEvent], kind: type[BackendEvent]) -> list[BackendEvent]:
    return [event for event in events if isinstance(event, kind)]


@BOTH
async def test_openrouters_answer_has_its_bill_and_its_route(stream: bool) -> None:  # noqa: FBT001  # a parameter
    async with open_setup(stream=stream) as it:
        events = await it.ask("stub")
    assert text_of(events) == "w0 w1 w2 w3 w4 "
    assert of_kind(events, UsageReported) == [UsageReported(replace(FULL_USAGE, cost_usd=Decimal("0.00014")))]
    end = Finished(StopReason.END, "stub-001", "Stub Cloud", "gen-1")
    assert events[-1] == end


async def test_other_providers_name_no_cost_and_the_provider_is_the_operators() -> None:
    async with open_setup(path="/v1", provider="local") as it:
        events = await it.ask("stub")
    assert of_kind(events, UsageReported) == [UsageReported(FULL_USAGE)]
    assert events[-1] == Finished(StopReason.END, "stub-001", "local", "chatcmpl-1")


@BOTH
async def test_a_bill_that_does_not_come_is_unknown(stream: bool) -> None:  # noqa: FBT001  # a parameter
    async with open_setup(stream=stream) as it:
        events = await it.ask("nousage")
    assert not of_kind(events, UsageReported)


async def test_comments_are_signs_of_life() -> None:
    async with open_setup() as it:
        events = await it.ask("orcomment")
    assert events[:3] == [SignOfLife()] * 3
    assert text_of(events) == "w0 w1 w2 w3 w4 "


async def test_comments_keep_a_silent_stream_alive() -> None:
    async with open_setup(pace=Ticks(0.2), idle_timeout_seconds=2) as it:
        events = await it.ask("comments12")
    assert len(of_kind(events, SignOfLife)) == 12
    assert isinstance(events[-1], Finished)


async def test_pieces_are_passed_on_as_they_come() -> None:
    async with open_setup() as it, aclosing(it.backend.run(backend_turn(model_id="slow-chunks2"))) as events:
        it.peer.steps.release()
        assert await anext(events) == TextDelta("w0 ")
        it.peer.steps.release()
        assert await anext(events) == TextDelta("w1 ")


@BOTH
async def test_reasoning_is_thought_and_not_text(stream: bool) -> None:  # noqa: FBT001  # a parameter
    async with open_setup(stream=stream) as it:
        events = await it.ask("reason-chunks1")
    thoughts = "".join(event.text for event in events if isinstance(event, ThoughtDelta))
    assert thoughts == "think think"
    assert text_of(events) == "w0 "


@BOTH
async def test_a_tool_call_is_told_once_and_is_why_the_answer_ended(stream: bool) -> None:  # noqa: FBT001  # a parameter
    async with open_setup(stream=stream) as it:
        events = await it.ask("tool")
    assert of_kind(events, ToolActivity) == [ToolActivity("weather", ToolState.STARTED)]
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.stop_reason is StopReason.TOOL_CALLS


@BOTH
async def test_an_answer_withheld_by_a_filter_is_a_failure(stream: bool) -> None:  # noqa: FBT001  # a parameter
    async with open_setup(stream=stream) as it:
        error = await it.fail("filtered")
    assert error.fault is BackendFault.CONTENT_POLICY


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("nofinish", BackendFault.STREAM_CUT),
        ("badchunk", BackendFault.BAD_REPLY),
        ("errchunk", BackendFault.UPSTREAM),
        ("err200", BackendFault.UPSTREAM),
        ("redirect", BackendFault.BAD_REPLY),
        ("typed", BackendFault.RATE_LIMIT),
        ("quota", BackendFault.PAYMENT),
    ],
)
async def test_openrouters_failures_are_told_apart(model: str, fault: BackendFault) -> None:
    async with open_setup() as it:
        assert (await it.fail(model)).fault is fault


async def test_openrouter_says_whether_and_when_to_come_back() -> None:
    async with open_setup() as it:
        assert not (await it.fail("final")).may_retry
        later = await it.fail("later")
    assert (later.may_retry, later.retry_after) == (True, timedelta(seconds=7))


@pytest.mark.parametrize(("model", "option"), [("picky", "include_usage"), ("old", "max_tokens_parameter")])
async def test_the_option_that_a_server_needs_is_named(model: str, option: str) -> None:
    async with open_setup(path="/v1") as it:
        error = await it.fail(model)
    assert error.fault is BackendFault.BAD_REQUEST
    assert option in error.next_step


async def test_google_says_when_to_come_back() -> None:
    async with open_setup(path="/v1beta/openai") as it:
        error = await it.fail("e429")
    assert (error.fault, error.retry_after) == (BackendFault.RATE_LIMIT, timedelta(seconds=12))


@pytest.mark.parametrize("model", ["nodone", "cutlate"])
async def test_a_stream_without_its_last_word_is_whole_once_the_model_said_why_it_stops(model: str) -> None:
    async with open_setup() as it:
        events = await it.ask(model)
    assert text_of(events) == "w0 w1 w2 w3 w4 "
    assert isinstance(events[-1], Finished)


async def test_a_reply_that_is_not_read_to_its_end_frees_its_connection() -> None:
    async with open_setup() as it:
        await it.fail("huge")
        await expect_soon(it.peer.client_gone(), "the connection is closed")


async def test_no_address_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_setup() as it:
        await it.ask("stub")
        origin = it.peer.origin
    assert not [record for record in caplog.records if origin in record.getMessage() or "/v1" in record.getMessage()]


async def test_nothing_is_tried_twice() -> None:
    async with open_setup() as it:
        await it.fail("e500")
        await it.fail("drop")
        assert len(it.peer.exchanges) == 2


async def test_the_connection_is_used_again() -> None:
    async with open_setup() as it:
        await it.ask("stub")
        await it.ask("stub")
        first, second = it.peer.exchanges
    assert first.gone is second.gone  # one event per connection


async def test_no_cookie_is_kept() -> None:
    async with open_setup(stream=False) as it:
        await it.ask("stub")
        await it.ask("stub")
        assert "cookie" not in it.peer.exchanges[1].headers


async def test_a_reply_without_measure_is_not_read_to_its_end() -> None:
    async with open_setup() as it:
        error = await it.fail("huge")
        await it.peer.client_gone()
    assert error.fault is BackendFault.BAD_REPLY


async def test_deadlines_are_told_apart() -> None:
    async with open_setup(idle_timeout_seconds=0.1) as it:
        assert (await it.fail("hang")).fault is BackendFault.TIMEOUT_IDLE
        assert (await it.fail("waits")).fault is BackendFault.TIMEOUT_IDLE
    async with open_setup(stream=False, idle_timeout_seconds=0.1, total_timeout_seconds=0.3) as it:
        assert (await it.fail("hang")).fault is BackendFault.TIMEOUT_TOTAL


async def test_a_host_that_does_not_exist_is_a_failed_connection() -> None:
    async with FakeHost() as host:
        backend = registry.create("openai", {"base_url": "http://no..such.host/v1"}, host)
        with pytest.raises(BackendError) as caught:
            await anext(backend.run(backend_turn()))
    assert caught.value.fault is BackendFault.CONNECTION


async def test_a_host_that_does_not_accept_is_a_connect_timeout() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=1)
    port: int = server.sockets[0].getsockname()[1]
    async with FakeHost() as host, server:
        # TLS is never answered: the connection is not made, though TCP is.
        options = {"base_url": f"https://127.0.0.1:{port}/v1", "connect_timeout_seconds": 0.1}
        check = await registry.create("openai", options, host).check()
        with pytest.raises(BackendError) as caught:
            await anext(registry.create("openai", options, host).run(backend_turn()))
    assert caught.value.fault is BackendFault.TIMEOUT_CONNECT
    assert check.status is HealthStatus.UNHEALTHY


async def test_the_request_is_what_the_operator_and_the_turn_say() -> None:
    history = (
        HistoryMessage(MessageRole.SYSTEM, "Be exact."),
        HistoryMessage(MessageRole.USER, "one"),
        HistoryMessage(MessageRole.USER, "two"),
        HistoryMessage(MessageRole.ASSISTANT, "three"),
        HistoryMessage(MessageRole.TOOL, "four"),
        HistoryMessage(MessageRole.ASSISTANT, " "),
        HistoryMessage(MessageRole.USER, "five"),
    )
    turn = replace(backend_turn("six"), system="Be kind.", history=history, temperature=0.5, max_tokens=9)
    async with open_setup(
        extra_body={"temperature": 0.1, "seed": 7},
        fallback_models=["stub/b", "stub/a"],
        max_tokens_parameter="max_completion_tokens",
        headers={"X-Team": "blue"},
        app_url="https://example.test",
        app_title="Example",
    ) as it:
        await it.ask("stub/a", turn)
        request = it.peer.exchanges[0]
    assert request.json == {
        "model": "stub/a",
        "models": ["stub/a", "stub/b"],
        "messages": [
            {"role": "system", "content": "Be kind.\n\nBe exact."},
            {"role": "user", "content": "one\n\ntwo"},
            {"role": "assistant", "content": "three\n\nfour"},
            {"role": "user", "content": "five\n\nsix"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "seed": 7,
    }
    expected = {
        "authorization": f"Bearer {KEY}",
        "x-team": "blue",
        "http-referer": "https://example.test",
        "x-openrouter-title": "Example",
        "content-type": "application/json",
    }
    assert expected.items() <= request.headers.items()


async def test_a_request_without_options_says_no_more_than_needed() -> None:
    async with open_setup(path="/v1", stream=False, include_usage=False, api_key=None) as it:
        await it.ask("stub")
        request = it.peer.exchanges[0]
    assert request.json == {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "stream": False}
    assert not {"authorization", "cookie", "http-referer"} & request.headers.keys()


async def test_a_turn_without_a_model_is_refused_before_anything_is_sent() -> None:
    async with open_setup() as it:
        with pytest.raises(BackendError) as caught:
            await anext(it.backend.run(backend_turn(model_id=None)))
        assert not it.peer.exchanges
    assert caught.value.fault is BackendFault.NOT_FOUND


@pytest.mark.parametrize("remaining", [0, -0.5])
async def test_a_key_without_credit_is_unhealthy(remaining: float) -> None:
    async with open_setup() as it:
        it.peer.limit_remaining = remaining
        check = await it.backend.check()
    assert check.status is HealthStatus.UNHEALTHY
    assert "credit" in str(check.error)


async def test_a_key_without_limit_is_healthy() -> None:
    async with open_setup() as it:
        it.peer.limit_remaining = None
        assert (await it.backend.check()).status is HealthStatus.HEALTHY


async def test_a_server_without_a_model_list_cannot_be_checked() -> None:
    async with open_setup(path="/v1") as it:
        it.peer.has_models = False
        assert (await it.backend.check()).status is HealthStatus.UNKNOWN


async def test_billing_stops_only_where_the_operator_knows_it() -> None:
    async with open_setup() as unknown, open_setup(stops_billing=True) as known:
        assert Capability.STOPS_BILLING not in unknown.backend.capabilities
        assert Capability.STOPS_BILLING in known.backend.capabilities


@pytest.mark.parametrize(
    "wrong",
    [
        {"extra_body": {"messages": []}},
        {"auth": "google", "api_key": "s3cret"},
        {"auth": "magic"},
        {"max_tokens_parameter": "tokens"},
    ],
)
def test_options_that_contradict_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        registry.create("openai", {"base_url": "http://127.0.0.1/v1"} | wrong, FakeHost())
