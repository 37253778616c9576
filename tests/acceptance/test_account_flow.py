"""An account at a real authorization server that is not ours: connected, used, renewed, taken away, disconnected."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.accounts.models import AccountState
from tests.edges.key_pages.test_account_overview import OVERVIEW, press
from tests.edges.key_pages.test_account_pages import connected, everything, link, offered
from tests.edges.key_pages.test_key_pages import ORIGIN, KeyPageSetup, execute, open_setup
from tests.edges.mcp.test_key_elicitations import client
from tests.edges.mcp.test_own_keys import written
from tests.support.clocks import LaterClock
from tests.support.connect import call, fields_of, text_of
from tests.support.peers.authorizer import Lies
from tests.support.peers.oidc_provider import Browser, OidcProvider, oidc_provider
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
SCOPES = ["openid", "offline_access", "chat"]
EXPIRED = timedelta(hours=1, minutes=1)


@dataclass
class World:
    """The server, whose time can be moved, the provider, and an agent for those who have an account there."""

    at: KeyPageSetup
    clock: LaterClock
    provider: OidcProvider
    peer: OpenAIPeer
    agent: str

    async def connect(self, scope: str | None = None) -> httpx2.Response:
        """Connect an account on the page: sign in at the provider, and leave of the scopes what is given."""
        browser, person = self.at.browser(), Browser(f"somebody-{new_id().hex}", scope)
        await person.open(offered(await browser.open(await link(self.at))))
        back = await person.answer()
        said = {"code": back.code, "state": back.state, "iss": back.iss}
        return await browser.open(f"{ORIGIN}/accounts/callback?{urlencode(said)}")

    async def ask(self) -> str | None:
        """Send a message, and return the token that paid for it; None where an account is asked for."""
        async with client(self.at, "http-2026", None, exp=tomorrow()) as ann:
            said = await call(ann, "chat", agent=self.agent, message=str(new_id()))
        if said.is_error:
            assert "/accounts/new?request=" in text_of(said)
            return None
        assert [attempt["key"] for attempt in fields_of(said)["route"]] == ["account"]  # type: ignore[index, union-attr]  # a list
        return self.peer.exchanges[-1].headers["authorization"].removeprefix("Bearer ")


def tomorrow() -> float:
    return (datetime.now(UTC) + timedelta(days=1)).timestamp()


@asynccontextmanager
async def world(home: Path, place: Path) -> AsyncGenerator[World]:
    name, clock = f"a{str(new_id())[-10:]}", LaterClock()
    async with OpenAIPeer() as peer, oidc_provider() as provider:
        registered = await provider.register(
            redirect_uris=[f"{ORIGIN}/accounts/callback"],
            grant_types=["authorization_code", "refresh_token"],
            scope=" ".join(SCOPES),
        )
        agent = written(name, peer).replace('backend = "openai"', 'backend = "openai"\nneeds_account = "vendor"')
        accounts = (
            f'[[accounts]]\nname = "vendor"\nkind = "oauth"\nissuer = "{provider.issuer}"\nscopes = {SCOPES}\n'
            f'client_id = "{registered["client_id"]}"\nclient_secret = "{registered["client_secret"]}"\n'
            f'providers = ["{name}"]\n'
        )
        async with open_setup(home, place, f"{agent}\n{accounts}", clock=clock) as at:
            at.issuer.secret, at.issuer.lies = None, Lies(claims={"exp": tomorrow()})
            yield World(at, clock, provider, peer, name)


async def test_an_account_is_connected_used_renewed_and_revoked(edge_home: Path, tmp_path: Path) -> None:
    async with world(edge_home, tmp_path) as here:
        assert await here.ask() is None
        assert (await here.connect()).status_code == 200
        tokens = [await here.ask()]
        for _ in range(2):  # the second time with a refresh token that replaced another
            here.clock.later += EXPIRED
            tokens.append(await here.ask())
        assert len(set(tokens) - {None}) == len(tokens)
        assert await here.provider.accepts(str(tokens[-1]))
        assert (await here.at.services.accounts.disconnect(everything(here.at), "vendor")).is_revoked
        assert not await here.provider.accepts(str(tokens[-1]))
        assert await here.ask() is None


async def test_a_user_connects_and_disconnects_an_account_on_the_page(edge_home: Path, tmp_path: Path) -> None:
    async with world(edge_home, tmp_path) as here:
        browser, person = here.at.browser(), Browser(f"somebody-{new_id().hex}")
        await person.open(offered(await press(browser, await browser.open(OVERVIEW), "Connect")))
        back = await person.answer()
        said = {"code": back.code, "state": back.state, "iss": back.iss}
        assert (await browser.open(f"{ORIGIN}/accounts/callback?{urlencode(said)}")).status_code == 200
        token = str(await here.ask())
        assert await here.provider.accepts(token)
        page = await press(browser, await browser.open(OVERVIEW), "Disconnect")
        assert "Its tokens are revoked at vendor, too." in page.text
        assert not await here.provider.accepts(token)
        assert await here.ask() is None


async def test_a_row_from_a_backup_ends_the_account_and_nothing_else(edge_home: Path, tmp_path: Path) -> None:
    keep = (
        "INSERT INTO kept SELECT oauth_data FROM public.mcp_sessions WHERE user_id = $1 AND session_id LIKE 'oauth/%'"
    )
    bring = "UPDATE public.mcp_sessions SET oauth_data = (SELECT * FROM kept) WHERE session_id = 'oauth/' || $1::uuid"
    async with world(edge_home, tmp_path) as here:
        who = here.at.principal.user_id
        await here.connect()
        await execute(edge_home, "CREATE TABLE kept (oauth_data jsonb)")
        try:
            await execute(edge_home, keep, who)
            here.clock.later += EXPIRED
            newest = await here.ask()
            await execute(edge_home, bring, who)
        finally:
            await execute(edge_home, "DROP TABLE kept")
        # Its refresh token was used before: the provider takes that for theft, and ends all tokens of the account.
        assert await here.ask() is None
        assert await connected(here.at) == [AccountState.REVOKED]
        assert not await here.provider.accepts(str(newest))
        assert (await here.connect()).status_code == 200
        assert await here.ask() is not None


async def test_an_account_without_a_scope_that_is_needed_is_not_connected(edge_home: Path, tmp_path: Path) -> None:
    async with world(edge_home, tmp_path) as here:
        refused = await here.connect(scope="openid offline_access")
        assert (refused.status_code, "did not grant chat" in refused.text) == (401, True)
        assert await connected(here.at) == []


async def test_a_provider_that_is_away_costs_no_account(
    edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(edge_home, tmp_path) as here:
        await here.connect()
        here.provider.process.kill()
        await here.provider.process.wait()
        before = await here.ask()
        here.clock.later += timedelta(minutes=55)  # it is to be renewed, and good for another five
        assert await here.ask() == before
        assert await connected(here.at) == [AccountState.CONNECTED]
    assert "account_not_renewed" in [record.message for record in caplog.records]
