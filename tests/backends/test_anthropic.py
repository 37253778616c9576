"""The Messages API: what is sent, what is read, and the bill."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    StopReason,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    Usage,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn, HealthStatus, HistoryMessage, MessageRole
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.peers.cases import backend_turn
from tests.support.peers.messages import KEY, MessagesPeer

U, A, S = MessageRole.USER, MessageRole.ASSISTANT, MessageRole.SYSTEM


@dataclass(frozen=True)
class BackendSetup:
    """A backend beside its peer."""

    backend: Backend
    peer: MessagesPeer

    async def ask(self, turn: BackendTurn) -> list[BackendEvent]:
        """Ask, and return all that was said."""
        return [event async for event in self.backend.run(turn)]


@asynccontextmanager
async def open_setup(**options: object) -> AsyncGenerator[BackendSetup]:
    """Start a peer with a backend of these options."""
    async with MessagesPeer() as peer, FakeHost() as host:
        given = {"base_url": peer.origin, "api_key": KEY} | options
        yield BackendSetup(registry.create("anthropic", given, host), peer)


def turn(model: str, **fields: object) -> BackendTurn:
    return replace(backend_turn(model_id=model), **fields)


async def test_the_request_is_what_the_api_demands() -> None:
    history = (
        HistoryMessage(A, "an old answer"),
        HistoryMessage(S, "a rule from before"),
        HistoryMessage(U, "one"),
        HistoryMessage(U, "two"),
        HistoryMessage(A, "   "),
    )
    async with open_setup(max_tokens=500) as at:
        await at.ask(turn("stub", message="three", system="Be brief.", history=history, temperature=0.5))
        [exchange] = at.peer.exchanges
        assert exchange.json == {
            "model": "stub",
            "max_tokens": 500,
            "stream": True,
            "system": "Be brief.\n\na rule from before",
            "temperature": 0.5,
            "messages": [
                {"role": "user", "content": "(The conversation so far, or the end of it.)"},
                {"role": "assistant", "content": "an old answer"},
                {"role": "user", "content": "one\n\ntwo\n\nthree"},
            ],
        }
        assert exchange.headers["x-api-key"] == KEY
        assert exchange.headers["anthropic-version"] == "2023-06-01"
        assert "authorization" not in exchange.headers
        await at.ask(turn("stub", max_tokens=9))
        assert at.peer.exchanges[1].json["max_tokens"] == 9
        assert "system" not in at.peer.exchanges[1].json


@pytest.mark.parametrize("stream", [True, False])
async def test_text_thought_bill_and_end_are_told(stream: bool) -> None:  # noqa: FBT001  # a parameter
    async with open_setup(stream=stream) as at:
        events = await at.ask(turn("stub-reason-chunks3-ping"))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "w0 w1 w2 "
    assert "".join(event.text for event in events if isinstance(event, ThoughtDelta)) == "hm"
    bills = [event.usage for event in events if isinstance(event, UsageReported)]
    assert bills[-1] == Usage(input_tokens=13, output_tokens=5, cached_tokens=4, cache_write_tokens=2)
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.model, end.provider, end.stop_reason) == ("stub-reason-chunks3-ping-001", "anthropic", StopReason.END)
    assert end.provider_request_id == ("req_1" if stream else "msg_1")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tool_that_nobody_has_is_told_and_why_the_answer_ended(stream: bool) -> None:  # noqa: FBT001  # a parameter
    async with open_setup(stream=stream) as at:
        events = await at.ask(turn("stub-tool"))
    assert [event.name for event in events if isinstance(event, ToolActivity)] == ["get_weather"]
    assert isinstance(events[-1], Finished)
    assert events[-1].stop_reason is StopReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("stub-refusal", BackendFault.CONTENT_POLICY),
        ("stub-credit", BackendFault.PAYMENT),
        ("stub-e413", BackendFault.CONTEXT_LENGTH),
        ("stub-nofinish", BackendFault.STREAM_CUT),
        ("stub-badchunk", BackendFault.BAD_REPLY),
        ("stub-redirect", BackendFault.BAD_REPLY),
    ],
)
async def test_the_apis_own_failures_are_told_as_they_are_meant(model: str, fault: BackendFault) -> None:
    async with open_setup() as at:
        with pytest.raises(BackendError) as caught:
            await at.ask(turn(model))
    assert caught.value.fault is fault


async def test_a_turn_without_a_model_is_refused_before_anything_is_sent() -> None:
    async with open_setup() as at:
        with pytest.raises(BackendError):
            await at.ask(replace(backend_turn(), model_id=None))
        assert at.peer.exchanges == []


async def test_the_bill_stops_with_the_connection_unless_the_operator_knows_better() -> None:
    async with open_setup() as at, open_setup(stops_billing=False) as other:
        assert Capability.STOPS_BILLING in at.backend.capabilities
        assert Capability.STOPS_BILLING not in other.backend.capabilities


async def test_a_base_url_of_something_else_is_unhealthy() -> None:
    async with MessagesPeer() as peer, FakeHost() as host:
        backend = registry.create("anthropic", {"base_url": f"{peer.origin}/nothing/here", "api_key": KEY}, host)
        assert (await backend.check()).status is HealthStatus.HEALTHY  # any path before /v1 is the operator's
        backend = registry.create("anthropic", {"base_url": "http://127.0.0.1:9", "connect_timeout_seconds": 1}, host)
        assert (await backend.check()).status is HealthStatus.UNHEALTHY


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"api_key": "a\nb"}, {"versoin": "x"}])
async def test_a_wrong_option_is_named(options: dict[str, object]) -> None:
    async with FakeHost() as host:
        with pytest.raises(ConfigurationError) as caught:
            registry.create("anthropic", options, host)
    assert next(iter(options)) in str(caught.value)


async def test_an_answer_that_is_whole_does_not_wait_for_the_stream_to_be_closed() -> None:
    async with open_setup(idle_timeout_seconds=60) as at:
        assert isinstance((await at.ask(turn("lingers-chunks3")))[-1], Finished)
        await at.peer.client_gone()


async def test_a_stream_that_is_never_ended_takes_nothing_from_an_answer_that_is_whole() -> None:
    async with open_setup(idle_timeout_seconds=2) as at:  # long enough for the pieces that come
        assert isinstance((await at.ask(turn("mute-chunks3")))[-1], Finished)
