"""The real claude-code-router, in a home of its own, with a provider on loopback behind it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import BackendEvent, Finished, TextDelta, ThoughtDelta
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.http import ExchangeOutcome
from tests.support.npm_peers import installed, node_bin, node_environment
from tests.support.peers.cases import backend_turn
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
KEY = "router-key-0123456789"
UPSTREAM_KEY = "sk-upstream-0123456789"


@dataclass(frozen=True)
class Router:
    """A running router, and the provider behind it."""

    base_url: str
    peer: OpenAIPeer

    def backend(self, host: FakeHost, **options: object) -> Backend:
        """Make a backend that speaks to it."""
        given: dict[str, object] = {"base_url": self.base_url, "api_key": KEY, "provider": "stub"}
        return registry.create("ccrouter", given | options, host)


@asynccontextmanager
async def router(*, configured: bool = True) -> AsyncGenerator[Router]:
    """Start the router that the lock names, in an empty home."""
    program = await asyncio.to_thread(installed) / "@musistudio" / "claude-code-router" / "dist" / "cli.js"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    async with OpenAIPeer() as peer:
        with tempfile.TemporaryDirectory(prefix="ccr-", dir="/tmp", ignore_cleanup_errors=True) as home:
            providers = [
                {
                    "name": "stub",
                    "api_base_url": f"{peer.origin}/v1/chat/completions",
                    "api_key": UPSTREAM_KEY,
                    "models": ["stub-1", "stub-2"],
                }
            ]
            config = {
                "HOST": "127.0.0.1",
                "PORT": port,
                "APIKEY": KEY,
                "NON_INTERACTIVE_MODE": True,
                "LOG": False,
                "Providers": providers if configured else [],
                "Router": {"default": "stub,stub-1"} if configured else {},
            }
            place = Path(home) / ".claude-code-router"
            place.mkdir()
            (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                str(node_bin() / "node"),
                str(program),
                "start",
                env={**node_environment(), "HOME": home},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                await up(port)
                yield Router(f"http://127.0.0.1:{port}", peer)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


async def up(port: int) -> None:
    """Wait until it answers."""
    async with asyncio.timeout(30), httpx2.AsyncClient() as http:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200:
                    return


def text_of(events: list[BackendEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def fault_of(backend: Backend, model: str) -> BackendError:
    with pytest.raises(BackendError) as caught:
        _ = [event async for event in backend.run(backend_turn(model_id=model))]
    return caught.value


async def test_it_answers_by_provider_and_model_streamed_and_whole() -> None:
    async with router() as real, FakeHost() as host:
        for stream in (True, False):
            backend = real.backend(host, stream=stream)
            for model, sent in (("stub-2", "stub-2"), ("stub,stub-1", "stub-1")):
                events = [event async for event in backend.run(backend_turn(model_id=model))]
                assert text_of(events).strip() == "w0 w1 w2 w3 w4"
                assert isinstance(events[-1], Finished)
                assert real.peer.exchanges[-1].json["model"] == sent
                assert real.peer.exchanges[-1].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        events = [event async for event in backend.run(backend_turn(model_id="stub-reason"))]
        assert not any(isinstance(event, ThoughtDelta) for event in events)  # dropped without a transformer of its own


async def test_its_failures_are_told_as_the_providers_were_and_leak_nothing() -> None:
    async with router() as real, FakeHost() as host:
        for stream in (True, False):
            backend = real.backend(host, stream=stream)
            for model, fault in (
                ("stub-e401", BackendFault.AUTH),
                ("stub-e402", BackendFault.PAYMENT),
                ("stub-e429", BackendFault.RATE_LIMIT),
                ("stub-e500", BackendFault.UPSTREAM),
                ("stub-contextlen", BackendFault.CONTEXT_LENGTH),
                ("nope,stub-1", BackendFault.NOT_FOUND),
            ):
                error = await fault_of(backend, model)
                assert error.fault is fault, f"{model}: {error}"
                for word in ("cli.js", "node_modules", "    at ", UPSTREAM_KEY, KEY, "Error:"):
                    assert word not in str(error)


async def test_a_stream_that_breaks_or_fails_late_is_a_failure() -> None:
    async with router() as real, FakeHost() as host:
        backend = real.backend(host, idle_timeout_seconds=2)
        assert (await fault_of(backend, "stub-cut")).fault is BackendFault.STREAM_CUT
        assert (await fault_of(backend, "stub-errchunk")).fault is BackendFault.UPSTREAM
        assert (await fault_of(backend, "stub-hang")).fault is BackendFault.TIMEOUT_IDLE


async def test_it_goes_on_asking_when_we_have_left_and_the_answer_says_so(edge_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "agentapi.toml"
    async with router() as real:
        config.write_text(
            '[agents.router]\nbackend = "ccrouter"\ndefault_model = "m"\n[agents.router.options]\n'
            f'base_url = "{real.base_url}"\napi_key = "{KEY}"\nprovider = "stub"\n'
            '[[agents.router.models]]\nname = "m"\nmodel_id = "stub-waits"\nprovider = "stub"\n',
            encoding="utf-8",
        )
        settings = Settings(home=edge_home, config=config, postgres_linger_seconds=20, shutdown_grace_seconds=0)
        async with open_app(settings, {}) as app:
            services = await app.services_provider.services()
            request = ChatRequest(message=f"hello {os.urandom(4).hex()}", agent="router")
            turn = await services.turns.start(services.principal, request)
            exchange = await real.peer.received()
            ended = await services.turns.cancel(services.principal, str(turn.id))
            assert ended.status is TurnStatus.CANCELLED
            assert ended.bill.billing_may_go_on
            assert exchange.outcome is not ExchangeOutcome.CLIENT_GONE
            assert not exchange.gone.is_set()
            again = await services.turns.get(services.principal, str(turn.id), wait=timedelta(0))
            assert again.bill.billing_may_go_on


async def test_its_check_tells_whether_the_key_is_right() -> None:
    async with router() as real, FakeHost() as host:
        backend = real.backend(host)
        assert (await backend.check()).status is HealthStatus.HEALTHY
        assert Capability.STOPS_BILLING not in backend.capabilities
        refused = await real.backend(host, api_key="wrong-key-0123456789").check()
        assert refused.status is HealthStatus.UNHEALTHY
        assert "APIKEY" in str(refused.error)


async def test_one_without_providers_is_told() -> None:
    async with router(configured=False) as real, FakeHost() as host:
        check = await real.backend(host).check()
        assert check.status is HealthStatus.UNHEALTHY
        assert "no providers" in str(check.error)
