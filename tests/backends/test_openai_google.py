"""Google's application-default credentials, against a token server on loopback."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import BackendEvent, Finished
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.clocks import ManualClock
from tests.support.peers.cases import backend_turn
from tests.support.peers.google import TokenPeer
from tests.support.peers.openai import OpenAIPeer


@dataclass(frozen=True)
class BackendSetup:
    """A provider, a token server, a backend, and its time."""

    provider: OpenAIPeer
    tokens: TokenPeer
    backend: Backend
    clock: ManualClock

    async def ask(self, model: str = "stub") -> list[BackendEvent]:
        """Run a turn to its end."""
        return [event async for event in self.backend.run(backend_turn(model_id=model))]

    def sent(self) -> list[str]:
        """List the tokens that the provider was shown."""
        return [exchange.headers["authorization"].removeprefix("Bearer ") for exchange in self.provider.exchanges]


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
def key_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return path


@pytest.fixture
def empty_key_file(key_file: Path) -> Path:
    key_file.write_text("{}")
    return key_file


@asynccontextmanager
async def open_setup(key_file: Path | None = None) -> AsyncGenerator[BackendSetup]:
    clock = ManualClock(at=datetime.now(UTC))
    async with FakeHost(clock=clock) as host, OpenAIPeer() as provider, TokenPeer() as tokens:
        if key_file is not None:
            tokens.write_key_file(key_file)
        options = {"base_url": f"{provider.origin}/v1beta/openai", "auth": "google"}
        yield BackendSetup(provider, tokens, registry.create("openai", options, host), clock)


async def test_a_token_is_fetched_once_and_renewed_before_it_expires(key_file: Path) -> None:
    async with open_setup(key_file) as it:
        assert isinstance((await it.ask())[-1], Finished)
        it.clock.advance(timedelta(minutes=50))
        await it.ask()
        it.clock.advance(timedelta(minutes=6))
        await it.ask()
        assert it.sent() == ["ya29.stub-1", "ya29.stub-1", "ya29.stub-2"]


async def test_a_token_that_is_refused_is_not_used_again(key_file: Path) -> None:
    async with open_setup(key_file) as it:
        with pytest.raises(BackendError):
            await it.ask("e401")
        await it.ask()
        assert it.sent() == ["ya29.stub-1", "ya29.stub-2"]


async def test_a_token_is_used_while_it_lasts_if_no_new_one_comes(key_file: Path) -> None:
    async with open_setup(key_file) as it:
        await it.ask()
        it.tokens.refuses = True
        it.clock.advance(timedelta(minutes=57))
        await it.ask()
        it.clock.advance(timedelta(minutes=4))
        with pytest.raises(BackendError) as caught:
            await it.ask()
        assert it.sent() == ["ya29.stub-1", "ya29.stub-1"]
    assert caught.value.fault is BackendFault.AUTH
    assert caught.value.unbilled  # the model's provider was not asked
    assert "s3cret" not in str(caught.value)


async def test_a_token_server_that_is_not_there_is_a_failed_connection(key_file: Path) -> None:
    async with open_setup(key_file) as it:
        await it.tokens.stop()
        with pytest.raises(BackendError) as caught:
            await it.ask()
    assert caught.value.fault is BackendFault.CONNECTION


async def test_no_credentials_are_told_with_what_to_do() -> None:
    async with open_setup() as it:
        with pytest.raises(BackendError, match="gcloud auth application-default login") as caught:
            await it.ask()
        check = await it.backend.check()
    assert caught.value.fault is BackendFault.BACKEND_MISSING
    assert check.status is HealthStatus.NOT_CONFIGURED


async def test_a_key_file_that_is_none_is_told_without_its_path(empty_key_file: Path) -> None:
    async with open_setup() as it:
        with pytest.raises(BackendError) as caught:
            await it.ask()
    assert caught.value.fault is BackendFault.BACKEND_MISSING
    assert str(empty_key_file) not in str(caught.value)


async def test_a_missing_extra_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    async with open_setup() as it:
        with pytest.raises(BackendError, match=r"agentapi-mcp\[google\]") as caught:
            await it.ask()
    assert caught.value.fault is BackendFault.BACKEND_MISSING
