"""What a replica tells the others of its configuration: a hash of what answers depend on, and no secret."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from agentapi_mcp.app.replicas import configuration_hash
from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.models import AgentDeclaration, CatalogueFile
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from tests.support.databases import DatabaseUrls
from tests.support.edges import mcp_application, serve_app

OPTIONS: Mapping[str, object] = {"base_url": "https://one.example/v1", "api_key": "sk-1", "idle_timeout_seconds": 30}
AGENT = AgentDeclaration(name="droid", backend="openai", options=OPTIONS)


def hash_of(settings: Settings | None = None, agent: AgentDeclaration = AGENT) -> str:
    """Return the hash of one agent and these settings."""
    return configuration_hash(settings or Settings(), CatalogueFile((agent,), "f" * 64))


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS | {"api_key": "sk-2"},
        OPTIONS | {"base_url": "https://name:password@one.example/v1?key=1"},
    ],
)
def test_no_secret_is_in_the_hash(options: Mapping[str, object]) -> None:
    assert hash_of(agent=replace(AGENT, options=options)) == hash_of()


def test_the_values_of_secret_settings_are_not_in_the_hash() -> None:
    one, two = (Settings(bearer_token=SecretStr(token * 16), redis_url=SecretStr(token)) for token in "ab")
    assert hash_of(one) == hash_of(two) != hash_of()


@pytest.mark.parametrize(
    "agent",
    [
        replace(AGENT, options=OPTIONS | {"base_url": "https://two.example/v1"}),
        replace(AGENT, options=OPTIONS | {"idle_timeout_seconds": 31}),
        replace(AGENT, options={"base_url": OPTIONS["base_url"]}),
        replace(AGENT, missing=("OPENROUTER_API_KEY is not set",)),
        replace(AGENT, backend="guide"),
        replace(AGENT, otherwise=AgentDeclaration(name="droid", backend="guide")),
    ],
)
def test_what_changes_answers_changes_the_hash(agent: AgentDeclaration) -> None:
    assert hash_of(agent=agent) != hash_of()


def test_a_setting_that_changes_answers_changes_the_hash_and_another_does_not() -> None:
    assert hash_of(Settings(toolsets=("core", "admin"))) != hash_of()
    assert hash_of(Settings(log_level="debug", home=Path("/elsewhere"))) == hash_of()


async def test_two_servers_of_different_configuration_say_so_in_health(
    own_database: DatabaseUrls, tmp_path: Path
) -> None:
    def settings(wait_seconds: int) -> Settings:
        return Settings(
            home=tmp_path, database_url=SecretStr(own_database.app), wait_seconds=wait_seconds, shutdown_grace_seconds=0
        )

    async def probed(app_settings: Settings) -> tuple[HealthStatus, object]:
        """Start a server, and return how it finds the replicas, and what it tells a load balancer."""
        async with open_app(app_settings, {}, options=AppOptions(is_replica=True)) as app:
            services = await app.services_provider.services()
            report = await services.health.report(services.principal)
            web = mcp_application(create_server(app.services_provider, McpOptions()))
            async with serve_app(web) as place, httpx2.AsyncClient(base_url=place.base, timeout=25) as http:
                ready = await http.get("/readyz")
            assert ready.status_code == 200
            return next(part.status for part in report.parts if part.name == "replicas"), ready.json()

    well, differs = (HealthStatus.HEALTHY, {"status": "ok"}), {"status": "ok", "warnings": ["replicas"]}
    async with open_app(settings(10), {}, options=AppOptions(is_replica=True)) as one:
        await one.services_provider.services()
        assert await probed(settings(10)) == well
        assert await probed(settings(20)) == (HealthStatus.DEGRADED, differs)
    assert await probed(settings(20)) == well  # the other has left
