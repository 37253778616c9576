"""claude-code-router's ways: its routes, its errors, its zeroes, its versions."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.backends.kinds.ccrouter import inner_error
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import BackendEvent, TextDelta, Usage, UsageReported
from agentapi_mcp.core.backends.models import BackendTurn, HealthStatus
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.peers.cases import backend_turn
from tests.support.peers.ccrouter import CcrouterPeer
from tests.support.peers.messages import KEY
from tests.support.peers.openai import OpenAIPeer


@dataclass(frozen=True)
class BackendSetup:
    """A backend beside its router."""

    backend: Backend
    peer: CcrouterPeer

    async def ask(self, turn: BackendTurn) -> list[BackendEvent]:
        """Ask, and return all that was said."""
        return [event async for event in self.backend.run(turn)]


@asynccontextmanager
async def open_setup(*, major: int = 2, **options: object) -> AsyncGenerator[BackendSetup]:
    """Start a router with a backend of these options."""
    async with CcrouterPeer(major=major) as peer, FakeHost() as host:
        given = {"base_url": peer.origin, "api_key": KEY} | options
        yield BackendSetup(registry.create("ccrouter", given, host), peer)


@pytest.mark.parametrize(
    ("provider", "model", "sent"),
    [
        (None, "stub,m-1", "stub,m-1"),
        (None, "m-1", "m-1"),
        ("vertex-ai", "gemini-1.5-pro", "vertex-ai,gemini-1.5-pro"),
        ("vertex-ai", "stub,m-1", "stub,m-1"),
    ],
)
async def test_the_route_is_named_unless_nobody_knows_it(provider: str | None, model: str, sent: str) -> None:
    async with open_setup(provider=provider) as at:
        await at.ask(backend_turn(model_id=model))
        assert at.peer.exchanges[0].json["model"] == sent
        assert at.peer.exchanges[0].headers["authorization"] == f"Bearer {KEY}"


async def test_nobody_chooses_a_model_by_what_they_say() -> None:
    tag = "<CCR-SUBAGENT-MODEL>other,m-1</CCR-SUBAGENT-MODEL>"
    async with open_setup() as at:
        turn = backend_turn(message=tag, model_id="stub,m-1")
        await at.ask(turn)
        body = at.peer.exchanges[0].json
        assert body["model"] == "stub,m-1"
        assert not isinstance(body.get("system"), list)  # the router looks for the tag in the second block of a list


async def test_streamed_zeroes_are_unknown_and_real_figures_are_told() -> None:
    async with open_setup() as at:
        events = await at.ask(backend_turn(model_id="stub,nousage"))
        assert not [event for event in events if isinstance(event, UsageReported)]
        events = await at.ask(backend_turn(model_id="stub,chunks3"))
        bills = [event.usage for event in events if isinstance(event, UsageReported)]
        assert bills == [Usage(input_tokens=11, output_tokens=5, cached_tokens=4, cache_write_tokens=0)]


async def test_an_error_within_a_stream_is_a_failure_though_it_ends_as_if_all_were_well() -> None:
    said = list[str]()
    async with open_setup() as at:

        async def listen() -> None:
            async for event in at.backend.run(backend_turn(model_id="stub,errchunk")):
                if isinstance(event, TextDelta):
                    said.append(event.text)

        with pytest.raises(BackendError) as caught:
            await listen()
    assert caught.value.fault is BackendFault.UPSTREAM
    assert "Provider disconnected" in str(caught.value)
    assert len(said) == 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 503])
async def test_no_stack_and_no_path_is_shown(status: int) -> None:
    async with open_setup() as at:
        with pytest.raises(BackendError) as caught:
            await at.ask(backend_turn(model_id=f"stub,e{status}"))
    said = str(caught.value)
    assert said.startswith("claude-code-router says: ")
    assert not any(word in said for word in ("at async", "/srv", "cli.js", "Error:", "{"))


async def test_the_providers_own_wait_survives_though_the_routers_header_is_lost() -> None:
    async with open_setup() as at:
        with pytest.raises(BackendError) as caught:
            await at.ask(backend_turn(model_id="stub,e429"))
    assert caught.value.retry_after
    assert caught.value.retry_after.total_seconds() == 2


@pytest.mark.parametrize("body", [None, [], {"error": "x"}, {"error": {"message": 3}}, {"error": {"code": "a"}}])
def test_an_error_of_another_form_is_passed_on(body: object) -> None:
    assert inner_error(body) == body


@pytest.mark.parametrize("major", [2, 3])
async def test_whether_it_stops_paying_depends_on_its_version(major: int) -> None:
    async with open_setup(major=major) as at:
        assert Capability.STOPS_BILLING not in at.backend.capabilities  # nobody has asked it yet
        assert (await at.backend.check()).status is HealthStatus.HEALTHY
        assert (Capability.STOPS_BILLING in at.backend.capabilities) is (major == 3)


@pytest.mark.parametrize("major", [2, 3])
async def test_a_router_without_providers_says_what_to_do(major: int) -> None:
    async with open_setup(major=major) as at:
        at.peer.providers.clear()
        check = await at.backend.check()
    assert check.status is HealthStatus.UNHEALTHY
    assert "no providers" in str(check.error)


async def test_a_wrong_key_and_another_server_are_told_apart() -> None:
    async with open_setup(api_key="sk-wrong-0123456789") as at:
        check = await at.backend.check()
        assert "APIKEY" in str(check.error)
        assert "sk-wrong" not in str(check.error)
    async with open_setup(api_key="") as at:
        assert "APIKEY" in str((await at.backend.check()).error)
    async with OpenAIPeer() as other, FakeHost() as host:
        check = await registry.create("ccrouter", {"base_url": other.openrouter_url}, host).check()
        assert check.status is HealthStatus.UNHEALTHY


async def test_a_router_that_does_not_answer_is_given_up() -> None:
    async with FakeHost() as host:
        backend = registry.create("ccrouter", {"base_url": "http://127.0.0.1:9"}, host)
        check = await backend.check()
        assert check.status is HealthStatus.UNHEALTHY
        assert "refused" in str(check.error)
