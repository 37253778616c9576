"""Azure OpenAI: both forms of its address, a key, and tokens of Entra ID; the contract is tested for all kinds."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError
from agentapi_mcp.core.backends.events import BackendEvent, Finished
from agentapi_mcp.core.backends.models import BackendTurn, HealthStatus
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.certificates import Pair
from tests.support.clocks import ManualClock
from tests.support.peers.cases import backend_turn
from tests.support.peers.entra import CREDENTIAL, EntraPeer
from tests.support.peers.openai import KEY, OpenAIPeer
from tests.support.sockets import says, serving

CLASSIC = "/openai/deployments/stub?api-version=2024-10-21"
V1 = "/openai/v1?api-version=preview"


@dataclass(frozen=True)
class BackendSetup:
    """A provider, a token server, a backend, and its time."""

    provider: OpenAIPeer
    entra: EntraPeer
    backend: Backend
    clock: ManualClock

    async def ask(self, turn: BackendTurn | None = None) -> list[BackendEvent]:
        """Run a turn to its end."""
        return [event async for event in self.backend.run(turn or backend_turn())]

    def sent(self, header: str) -> list[str | None]:
        """List the values of a header that the provider was shown."""
        return [exchange.headers.get(header) for exchange in self.provider.exchanges]


@asynccontextmanager
async def open_setup(
    path: str, *, provider: str = "azure", with_entra: bool = False, **options: object
) -> AsyncGenerator[BackendSetup]:
    clock = ManualClock()
    async with FakeHost(clock=clock) as host, OpenAIPeer() as peer, EntraPeer() as entra:
        credential = {"client_credentials": entra.credentials} if with_entra else {"api_key": KEY}
        given = {"base_url": peer.origin + path, "provider": provider, **credential, **options}
        yield BackendSetup(peer, entra, registry.create("openai", given, host), clock)


@pytest.mark.parametrize(
    "written",
    [
        CLASSIC,
        "/openai/deployments/stub/chat/completions?api-version=2024-10-21",  # as Azure's pages show it
        "/openai/deployments/stub/?api-version=2024-10-21",
    ],
)
async def test_a_deployment_has_its_version_and_its_key(written: str) -> None:
    async with open_setup(written) as it:
        assert isinstance((await it.ask())[-1], Finished)
        assert [exchange.path for exchange in it.provider.exchanges] == [
            "/openai/deployments/stub/chat/completions?api-version=2024-10-21"
        ]
        assert (it.sent("api-key"), it.sent("authorization")) == ([KEY], [None])


async def test_the_newer_api_has_no_deployment_in_its_address() -> None:
    async with open_setup(V1) as it:
        await it.ask()
        check = await it.backend.check()
        paths = [exchange.path for exchange in it.provider.exchanges]
    assert paths == ["/openai/v1/chat/completions?api-version=preview", "/openai/v1/models?api-version=preview"]
    assert check.status is HealthStatus.HEALTHY


async def test_the_models_of_a_resource_are_not_below_its_deployment() -> None:
    async with open_setup(CLASSIC) as it:
        assert (await it.backend.check()).status is HealthStatus.HEALTHY
        assert it.provider.exchanges[0].path == "/openai/models?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("host", "path", "header", "limit"),
    [
        ("name.openai.azure.com", "/openai/v1", "api-key", "max_completion_tokens"),
        ("name.openai.azure.com", "/openai/deployments/x?api-version=1", "api-key", "max_tokens"),
        ("name.services.ai.azure.com", "/models?api-version=1", "api-key", "max_tokens"),
        ("name.cognitiveservices.azure.com", "/openai/v1", "api-key", "max_completion_tokens"),
        ("models.inference.ai.azure.com", "", "authorization", "max_tokens"),
        ("api.openai.com", "/v1", "authorization", "max_completion_tokens"),
        ("provider.example", "/v1", "authorization", "max_tokens"),
    ],
)
async def test_azure_and_openai_are_known_by_their_hosts(
    host: str, path: str, header: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeHost() as local, OpenAIPeer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        options = {"base_url": f"http://{host}{path}", "api_key": KEY}
        backend = registry.create("openai", options, local)
        _ = [event async for event in backend.run(replace(backend_turn(), max_tokens=7))]
        sent = proxy.exchanges[0]
    assert KEY in sent.headers[header]
    assert {"max_tokens", "max_completion_tokens"} & sent.json.keys() == {limit}
    assert sent.json[limit] == 7


async def test_a_key_may_have_another_header_and_the_callers_own_takes_it() -> None:
    async with open_setup("/v1", provider="gateway", api_key_header="Ocp-Apim-Subscription-Key") as it:
        await it.ask()
        await it.ask(replace(backend_turn(), api_key=SecretStr("their-own-key")))
        await it.ask(replace(backend_turn(), access_token=SecretStr("their-token")))
        assert it.sent("ocp-apim-subscription-key") == [KEY, "their-own-key", None]
        assert it.sent("authorization") == [None, None, "Bearer their-token"]
        assert Capability.OWN_KEYS in it.backend.capabilities


# --- tokens


async def test_a_token_is_shared_and_renewed_before_it_expires() -> None:
    async with open_setup(CLASSIC, with_entra=True) as it:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(it.ask())
        it.clock.advance(timedelta(minutes=50))
        await it.ask()
        it.clock.advance(timedelta(minutes=6))
        await it.ask()
        assert it.sent("authorization") == ["Bearer ey.stub-1"] * 4 + ["Bearer ey.stub-2"]
        assert it.sent("api-key") == [None] * 5
        assert Capability.OWN_KEYS not in it.backend.capabilities


async def test_a_token_that_is_refused_is_not_used_again() -> None:
    async with open_setup(CLASSIC, with_entra=True) as it:
        with pytest.raises(BackendError):
            await it.ask(backend_turn(model_id="e401"))
        await it.ask()
        assert it.sent("authorization") == ["Bearer ey.stub-1", "Bearer ey.stub-2"]


async def test_a_token_is_used_while_it_lasts_if_no_new_one_comes() -> None:
    async with open_setup(CLASSIC, with_entra=True) as it:
        await it.ask()
        it.entra.is_away = True
        it.clock.advance(timedelta(minutes=57))
        await it.ask()
        it.clock.advance(timedelta(minutes=4))
        with pytest.raises(BackendError, match="token server") as caught:
            await it.ask()
        assert it.sent("authorization") == ["Bearer ey.stub-1"] * 2
    assert (caught.value.fault, caught.value.may_retry) == (BackendFault.OVERLOADED, True)


@pytest.mark.parametrize(("life", "renewed"), [("3600", False), (3599.5, False), (None, True), ("soon", True)])
async def test_the_life_of_a_token_is_read_in_any_form_and_short_if_unsaid(
    life: object,
    renewed: bool,  # noqa: FBT001  # a parameter
) -> None:
    async with open_setup(CLASSIC, with_entra=True) as it:
        it.entra.life = life
        await it.ask()
        it.clock.advance(timedelta(minutes=2))
        await it.ask()
        assert len(it.entra.exchanges) == 1 + renewed


@pytest.mark.parametrize("wrong", [CREDENTIAL + "x", "entra-client/+ 0123456789"])
async def test_credentials_that_are_refused_are_told_without_the_secret(wrong: str) -> None:
    async with open_setup(CLASSIC, with_entra=True) as it, FakeHost() as host:
        options = {
            "base_url": it.provider.origin + CLASSIC,
            "client_credentials": it.entra.credentials | {"client_secret": wrong},
        }
        backend = registry.create("openai", options, host)
        check = await backend.check()
        assert it.provider.exchanges == []
    assert check.status is HealthStatus.UNHEALTHY
    assert check.error is not None
    assert check.error.startswith("The token server of the agent says: AADSTS7000215: Invalid client secret provided")
    assert "entra-client" not in check.error
    assert "0123456789" not in check.error


async def test_the_token_server_is_trusted_by_the_authorities_of_the_agent(tmp_path: Path) -> None:
    chain, key = Pair.make().write(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    body = b'{"access_token": "ey.stub", "expires_in": 3600}'
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    async with FakeHost() as host, OpenAIPeer() as provider, serving(says(reply), tls=context) as peer:
        credentials = {"token_url": f"{peer.secure}/token", "client_id": "app", "client_secret": CREDENTIAL}
        options = {"base_url": provider.origin + CLASSIC, "client_credentials": credentials}
        backend = registry.create("openai", options | {"ca_file": str(chain)}, host)
        _ = [event async for event in backend.run(backend_turn())]
        assert [exchange.headers.get("authorization") for exchange in provider.exchanges] == ["Bearer ey.stub"]


async def test_a_token_server_that_is_not_there_is_a_failed_connection() -> None:
    async with open_setup(CLASSIC, with_entra=True) as it:
        await it.entra.stop()
        with pytest.raises(BackendError, match="token_url") as caught:
            await it.ask()
    assert caught.value.fault is BackendFault.CONNECTION


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"base_url": "https://x.example/v1?api-key=s3cret"}, "must not hold a key in its query"),
        ({"base_url": "https://x.example/v1?a=b&subscription_key=s3cret"}, "must not hold a key in its query"),
        ({"client_credentials": {"token_url": "https://x.example/token"}}, "client_credentials.client_id is missing"),
        ({"client_credentials": {"token_url": "http://x.example/token"}}, "client_credentials.token_url must begin"),
        *(
            ({"client_credentials": {"token_url": url}}, "client_credentials.token_url must begin with https")
            for url in (
                "HTTP://x.example",
                "http://127.0.0.1.x.example",
                "http://x.example//127.0.0.1",
                "http://localhost.x",
            )
        ),
        ({"client_credentials": "s3cret"}, "client_credentials must be"),
        ({"auth": "google", "client_credentials": EntraPeer().credentials}, "leave one of them out"),
        ({"api_key": "s3cret", "client_credentials": EntraPeer().credentials}, "leave one of them out"),
    ],
)
async def test_a_wrong_way_to_sign_in_is_named(wrong: dict[str, object], named: str) -> None:
    async with FakeHost() as host:
        with pytest.raises(ConfigurationError, match=named) as caught:
            registry.create("openai", {"base_url": "https://x.example/v1"} | wrong, host)
    assert "s3cret" not in str(caught.value)
