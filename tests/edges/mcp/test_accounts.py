"""Connected accounts through the whole program: asked for by the SDK's client, and named in the bill."""

from pathlib import Path

import pytest
from mcp.client.context import ClientRequestContext
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult
from pydantic import SecretStr

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.keys.api_keys import NewApiKey
from tests.edges.key_pages.test_account_pages import everything, offered
from tests.edges.key_pages.test_key_pages import ORIGIN, KeyPageSetup, open_setup
from tests.edges.mcp.test_key_elicitations import client
from tests.edges.mcp.test_own_keys import SERVERS, written
from tests.support.connect import call, fields_of, text_of
from tests.support.peers.account_provider import AccountProviderPeer, described
from tests.support.peers.openai import OpenAIPeer


def configured(name: str, peer: OpenAIPeer, provider: AccountProviderPeer, needs: str = "") -> str:
    """Write an agent, and where accounts for it are connected."""
    agent = written(name, peer).replace('backend = "openai"', f'backend = "openai"\n{needs}')
    return f'{agent}\n{described(provider, "vendor")}providers = ["{name}"]\n'


async def connect(at: KeyPageSetup, url: str) -> None:
    """Do what the person does."""
    assert url.startswith(f"{ORIGIN}/accounts/new?request=")
    browser = at.browser()
    assert (await browser.open(offered(await browser.open(url)))).status_code == 200


@pytest.mark.parametrize("link", ["http-2025", "http-2026", "sse-2025", "sse-2026"])
async def test_a_chat_that_needs_an_account_asks_for_it_and_then_succeeds(
    link: str, edge_home: Path, tmp_path: Path
) -> None:
    name, addresses = f"a{str(new_id())[-10:]}", list[str]()
    async with (
        OpenAIPeer() as peer,
        AccountProviderPeer() as provider,
        open_setup(edge_home, tmp_path, configured(name, peer, provider, 'needs_account = "vendor"')) as at,
    ):
        at.issuer.secret = None

        async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            del context
            assert isinstance(params, ElicitRequestURLParams)
            addresses.append(params.url)
            await connect(at, params.url)
            return ElicitResult(action="accept")

        async with client(at, link, answer) as ann:
            if link.endswith("2025"):
                with pytest.raises(MCPError) as refused:
                    await call(ann, "chat", agent=name, message="hello")
                (asked,) = UrlElicitationRequiredError.from_error(refused.value.error).elicitations
                await answer(None, asked)  # type: ignore[arg-type]  # it is not looked at
            done = fields_of(await call(ann, "chat", agent=name, message="hello"))
            assert (done["status"], [step["key"] for step in done["route"]]) == ("completed", ["account"])  # type: ignore[union-attr, index]  # a list
            sent = peer.exchanges[-1].headers["authorization"].removeprefix("Bearer ")
            assert provider.accepts(sent)
            assert len(addresses) == 1
            await at.services.accounts.disconnect(everything(at), "vendor")
            again = client(at, link, None)
        async with again as ann:
            refused_again = await call(ann, "chat", agent=name, message="hello again")
        assert refused_again.is_error
        assert f"{ORIGIN}/accounts/new?request=" in text_of(refused_again)


async def test_an_account_pays_after_the_users_key_and_before_the_organisations(
    edge_home: Path, tmp_path: Path
) -> None:
    name = f"a{str(new_id())[-10:]}"
    async with (
        OpenAIPeer() as peer,
        AccountProviderPeer() as provider,
        open_setup(edge_home, tmp_path, configured(name, peer, provider)) as at,
    ):
        at.issuer.secret = None

        async def sent() -> tuple[str, str]:
            async with client(at, "http-2026", None) as ann:
                done = fields_of(await call(ann, "chat", agent=name, message=str(new_id())))
            return done["route"][0]["key"], peer.exchanges[-1].headers["authorization"].removeprefix("Bearer ")  # type: ignore[index]  # a list

        async def add(value: str, *, organization: bool) -> None:
            new = NewApiKey(provider=name, value=SecretStr(value))
            await at.services.api_keys.add(everything(at), new, organization=organization)

        assert await sent() == ("server", SERVERS)
        await add("sk-of-the-organisation", organization=True)
        assert await sent() == ("organization", "sk-of-the-organisation")
        url = await at.services.account_page_visits.invite(at.principal, "vendor")
        assert url is not None
        await connect(at, url)
        source, token = await sent()
        assert (source, provider.accepts(token)) == ("account", True)
        await add("sk-of-the-user", organization=False)
        assert await sent() == ("user", "sk-of-the-user")


async def test_an_agent_without_its_account_is_listed_with_what_it_lacks(edge_home: Path, tmp_path: Path) -> None:
    name = f"a{str(new_id())[-10:]}"
    async with (
        OpenAIPeer() as peer,
        AccountProviderPeer() as provider,
        open_setup(edge_home, tmp_path, configured(name, peer, provider, 'needs_account = "vendor"')) as at,
    ):
        at.issuer.secret = None
        view = await at.services.agents.get(at.principal, name)
        assert view.missing == (f"you have connected no account at vendor ({ORIGIN}/accounts/)",)
        url = await at.services.account_page_visits.invite(at.principal, "vendor")
        assert url is not None
        await connect(at, url)
        assert (await at.services.agents.get(at.principal, name)).missing == ()
