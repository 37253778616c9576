"""The real Droid CLI, in a home of its own and cut off from the outside, with a provider on loopback behind it."""

import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn, HealthStatus
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.http import Answer, Exchange
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.npm_peers import installed
from tests.support.peers.cases import backend_turn
from tests.support.peers.openai import OpenAIPeer

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the lock holds the binary of Linux on x64"
    ),
]
KEY = "sk-upstream-0123456789"
NOWHERE = "http://127.0.0.1:9"
PASSED = {
    "PATH": "/usr/bin:/bin",
    "STUB_KEY": KEY,
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "NO_PROXY": "127.0.0.1",
}
MODELS = ("stub-echo", "stub-reason", "stub-waits", "stub-e401", "stub-touch")
TOUCH = '{"command":"touch made","riskLevel":"medium","riskLevelReason":"it writes","summary":"touch"}'

SERVER = """
import asyncio, json, sys
from agentapi_mcp.backends import registry
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.peers.cases import backend_turn

async def main():
    async with FakeHost() as host:
        backend = registry.create("droid", json.loads(sys.argv[1]), host)
        async for _ in backend.run(backend_turn("hello", "custom:stub-waits-0")):
            pass

asyncio.run(main())
"""


class ToolCallingPeer(OpenAIPeer):
    """A provider whose model `stub-touch` wants a file to be made."""

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        if exchange.json.get("model") != "stub-touch" or b'"Execute"' not in exchange.content:
            await super().answer(exchange, answer)
            return
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "Execute", "arguments": TOUCH}}
        await answer.open_stream()
        for delta, finish in (({"tool_calls": [call]}, None), ({}, "tool_calls")):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await answer.write_chunk(f"data: {json.dumps({'id': 'c', 'model': 'stub-touch', 'choices': [choice]})}\n\n")
        await answer.write_chunk("data: [DONE]\n\n")
        await answer.close_stream()


@dataclass(frozen=True)
class Droids:
    """The binary in its home, and the provider behind it."""

    options: dict[str, object]
    home: Path
    peer: OpenAIPeer

    def backend(self, host: FakeHost, **options: object) -> Backend:
        """Make a backend that runs it."""
        return registry.create("droid", self.options | options, host)


@asynccontextmanager
async def droids() -> AsyncGenerator[Droids]:
    """Write the settings of the CLI, with a custom model for each way of the provider."""
    binary = await asyncio.to_thread(installed) / "@factory" / "cli-linux-x64" / "bin" / "droid"
    async with ToolCallingPeer() as peer:
        with tempfile.TemporaryDirectory(prefix="droid-", dir="/tmp", ignore_cleanup_errors=True) as home:
            models = [
                {
                    "model": name,
                    "displayName": name,
                    "baseUrl": f"{peer.origin}/v1",
                    "apiKey": "${STUB_KEY}",
                    "provider": "generic-chat-completion-api",
                }
                for name in MODELS
            ]
            settings = Path(home) / ".factory" / "settings.json"
            settings.parent.mkdir()
            settings.write_text(json.dumps({"cloudSessionSync": False, "customModels": models}), encoding="utf-8")
            env = {"HOME": home, **PASSED}
            options: dict[str, object] = {"command": str(binary), "cwd": f"{home}/work", "env": env}
            yield Droids(options, Path(home), peer)


def turn_on(model: str, message: str, session: BackendTurn | None = None) -> BackendTurn:
    turn = backend_turn(message, f"custom:{model}-0")
    return turn if session is None else replace(turn, session_id=session.session_id)


async def events_of(backend: Backend, turn: BackendTurn) -> list[BackendEvent]:
    return [event async for event in backend.run(turn)]


def end_of(events: list[BackendEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def text_of(events: list[BackendEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_session_keeps_its_process_and_after_a_restart_its_memory() -> None:
    async with droids() as real, FakeHost() as host:
        async with aclosing(real.backend(host)) as backend:
            first = turn_on("stub-reason", "the first of them")
            events = await events_of(backend, first)
            assert text_of(events) == "w0 w1 w2 w3 w4 "
            assert any(isinstance(event, ThoughtDelta) for event in events)
            bills = [event.usage for event in events if isinstance(event, UsageReported)]
            assert (bills[-1].input_tokens or 0) >= 11
            second = replace(turn_on("stub-echo", "hello there", first), state=end_of(events).state)
            events = await events_of(backend, second)
            assert "hello there" in text_of(events)
            state = end_of(events).state
        async with aclosing(real.backend(host)) as backend:
            third = replace(turn_on("stub-reason", "the third", first), state=state)
            events = await events_of(backend, third)
            assert end_of(events).state["session"] == state["session"]
            assert end_of(events).warning is None
        asked = real.peer.exchanges[-1].content
        assert b"the first of them" in asked
        assert b"hello there" in asked
        async with aclosing(real.backend(host)) as backend:
            lost = {"session": "11111111-2222-3333-4444-555555555555", "turn": "x"}
            events = await events_of(backend, replace(turn_on("stub-reason", "the fourth", first), state=lost))
            assert "lost its memory" in str(end_of(events).warning)


async def test_closing_the_iterator_reaches_the_model_and_the_session_goes_on() -> None:
    async with droids() as real, FakeHost() as host, aclosing(real.backend(host)) as backend:
        turn = turn_on("stub-waits", "wait")
        async with aclosing(backend.run(turn)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
            # The call for the session's title, which has no tools, is not interrupted by the CLI.
            waiting = [each for each in real.peer.exchanges if b'"tools"' in each.content]
            assert waiting
            assert not any(each.ended.is_set() for each in waiting)
        for exchange in waiting:
            await exchange.gone.wait()
        assert text_of(await events_of(backend, turn_on("stub-reason", "again", turn))) == "w0 w1 w2 w3 w4 "


async def test_a_permission_is_refused_and_the_answer_says_so() -> None:
    async with droids() as real, FakeHost() as host, aclosing(real.backend(host)) as backend:
        events = await events_of(backend, turn_on("stub-touch", "make it"))
        assert "refused: Execute" in str(end_of(events).warning)
        assert [event.name for event in events if isinstance(event, ToolActivity)] == ["Execute", "Execute"]
        assert not (real.home / "work" / "made").exists()


async def test_failures_and_limits_are_told() -> None:
    async with droids() as real, FakeHost() as host, aclosing(real.backend(host, max_processes=1)) as backend:
        assert (await backend.check()).status is HealthStatus.HEALTHY
        with pytest.raises(BackendError) as caught:
            await events_of(backend, turn_on("stub-e401", "hello"))
        assert caught.value.fault is BackendFault.AUTH
        with pytest.raises(BackendError) as caught:
            await events_of(backend, backend_turn("hello", "nothing-1"))
        assert caught.value.fault is BackendFault.NOT_FOUND
        async with aclosing(backend.run(turn_on("stub-waits", "wait"))) as events:
            await anext(events)
            with pytest.raises(BackendError) as caught:
                await events_of(backend, turn_on("stub-reason", "hello"))
        assert caught.value.fault is BackendFault.OVERLOADED
        assert "max_processes" in str(caught.value)


async def test_a_session_that_another_agent_began_is_told_to_it(edge_home: Path, tmp_path: Path) -> None:
    async with droids() as real:
        options = ", ".join(f"{name} = {json.dumps(value)}" for name, value in real.options.items() if name != "env")
        env = ", ".join(f"{name} = {json.dumps(value)}" for name, value in PASSED.items())
        config = tmp_path / "agentapi.toml"
        config.write_text(
            f'[agents.factory]\nbackend = "droid"\ndefault_model = "m"\n'
            f"options = {{ {options}, env = {{ HOME = {json.dumps(str(real.home))}, {env} }} }}\n"
            '[[agents.factory.models]]\nname = "m"\nmodel_id = "custom:stub-reason-0"\nprovider = "stub"\n',
            encoding="utf-8",
        )
        settings = Settings(home=edge_home, config=config, postgres_linger_seconds=20, shutdown_grace_seconds=0)
        async with open_app(settings, {}) as app:
            services = await app.services_provider.services()
            asked = f"what is this program {os.urandom(4).hex()}?"
            wait = timedelta(seconds=30)
            first = await services.turns.chat(services.principal, ChatRequest(message=asked, agent="guide"), wait=wait)
            second = await services.turns.chat(
                services.principal,
                ChatRequest(message="and now?", agent="factory", session_id=str(first.session_id)),
                wait=wait,
            )
            assert (second.status, second.reply) == (TurnStatus.COMPLETED, "w0 w1 w2 w3 w4 ")
        assert asked.encode() in real.peer.exchanges[-1].content


async def test_the_packaged_agent_works_with_it_where_it_is_named(edge_home: Path) -> None:
    async with droids() as real:
        environ = {
            **PASSED,
            "HOME": str(real.home),
            "OPENROUTER_API_KEY": KEY,
            "AGENTAPI_OPENROUTER_BASE_URL": real.peer.openrouter_url,
            "AGENTAPI_DROID_COMMAND": str(real.options["command"]),
        }
        (real.home / ".factory" / "settings.json").unlink()
        settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
        wait = timedelta(seconds=30)
        async with open_app(settings, environ) as app:
            services = await app.services_provider.services()
            principal, turns = services.principal, services.turns
            assert (await services.agents.get(principal, "droid")).backend == "droid"
            first = await turns.chat(
                principal, ChatRequest(message="the first", agent="droid", model="gpt-4o"), wait=wait
            )
            assert (first.status, first.backend, first.bill.model_used) == (
                TurnStatus.COMPLETED,
                "droid",
                "openai/gpt-4o",
            )
            again = ChatRequest(message="the second", session_id=str(first.session_id), model="deepseek-v4.1-flash")
            second = await turns.chat(principal, again, wait=wait)
            assert (second.status, second.bill.model_used) == (TurnStatus.COMPLETED, "deepseek/deepseek-v4.1-flash")
            asked = real.peer.exchanges[-1]
            assert (asked.json["model"], asked.headers["authorization"]) == (
                "deepseek/deepseek-v4.1-flash",
                f"Bearer {KEY}",
            )
            assert b"the first" in asked.content
        written = "".join(path.read_text(encoding="utf-8") for path in real.home.rglob(".cache/**/*.json"))
        assert "deepseek" in written
        assert KEY not in written
        async with open_app(settings, environ | {"AGENTAPI_DROID_COMMAND": "no-such-droid"}) as app:
            services = await app.services_provider.services()
            view = await services.agents.get(services.principal, "droid")
            assert view.backend == "openai"
            assert view.backend_reason == (
                "droid cannot be used: the Droid CLI is not installed: command names no program that can be run"
            )
            third = ChatRequest(message="the third", session_id=str(first.session_id))
            answered = await services.turns.chat(services.principal, third, wait=wait)
            assert (answered.status, answered.backend) == (TurnStatus.COMPLETED, "openai")
            assert b"the second" in real.peer.exchanges[-1].content


async def test_another_replica_may_answer_in_between() -> None:
    async with droids() as real, FakeHost() as host:
        async with aclosing(real.backend(host)) as one, aclosing(real.backend(host)) as two:
            first = turn_on("stub-reason", "the first of them")
            state = end_of(await events_of(one, first)).state
            for backend, said in ((two, "the second"), (one, "the third")):
                turn = replace(turn_on("stub-reason", said, first), state=state)
                state = end_of(await events_of(backend, turn)).state
        asked = real.peer.exchanges[-1].content
        assert all(said in asked for said in (b"the first of them", b"the second", b"the third"))


async def test_it_ends_with_a_server_that_is_killed() -> None:
    async with droids() as real:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, json.dumps(real.options), stdout=asyncio.subprocess.DEVNULL
        )
        exchange = await real.peer.received()
        server.kill()
        await server.wait()
        await expect_soon(exchange.gone.wait(), "the program has closed its request to the provider")
