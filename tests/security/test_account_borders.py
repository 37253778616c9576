"""An account that Ann connected, tried from behind every border: its pages, its tokens, its copies in Redis."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agentapi_mcp.base.errors import NotFoundError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.accounts.models import AccountState
from agentapi_mcp.core.identity.principals import Principal
from tests.edges.key_pages.test_account_overview import OVERVIEW, button, press, row
from tests.edges.key_pages.test_account_overview import connect as connect_from_page
from tests.edges.key_pages.test_account_pages import back, link, offered
from tests.edges.key_pages.test_key_pages import ORIGIN, KeyPageSetup, execute, open_setup
from tests.edges.mcp.test_accounts import configured
from tests.edges.mcp.test_key_elicitations import client
from tests.support.browsers import Browser
from tests.support.connect import call, fields_of, text_of
from tests.support.peers.account_provider import AccountProviderPeer
from tests.support.peers.authorizer import Lies
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey

COLLEAGUE, STRANGER, ELSEWHERE = "her colleague, an owner", "another organisation's", "herself elsewhere"
ATTACKERS = (COLLEAGUE, STRANGER, ELSEWHERE)
pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True, eq=False)
class Visitor:
    """Somebody who signs in at the issuer; `claims` is what their tokens say besides."""

    subject: str
    principal: Principal
    claims: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def everything(self) -> Principal:
        """Who they are at their own terminal, where no token limits them."""
        return replace(self.principal, scopes=None)


@dataclass(frozen=True)
class Scene:
    """A server with an agent for those who have an account at `vendor`, Ann, and who stands behind which border."""

    at: KeyPageSetup
    agent: str
    peer: OpenAIPeer
    provider: AccountProviderPeer
    ann: Visitor
    attackers: Mapping[str, Visitor]

    def browser(self, visitor: Visitor) -> Browser:
        """Return a browser, before which somebody sits."""
        self.at.issuer.lies = Lies(claims=dict(visitor.claims))
        return self.at.browser(visitor.subject)

    async def connect(self, visitor: Visitor) -> None:
        """Connect an account on the page."""
        browser = self.browser(visitor)
        page = await browser.open(await link(self.at, visitor.principal))
        assert (await browser.open(offered(page))).status_code == 200

    async def connected(self, visitor: Visitor) -> list[AccountState]:
        """List the accounts of somebody."""
        return [account.state for account in await self.at.services.accounts.list_(visitor.everything)]

    async def ask(self, visitor: Visitor) -> str | None:
        """Send a message, and return the token that it was paid with; None where an account is asked for."""
        before = len(self.peer.exchanges)
        async with client(self.at, "http-2026", None, visitor.subject, **visitor.claims) as asking:
            said = await call(asking, "chat", agent=self.agent, message=str(new_id()))
        if said.is_error:
            assert "/accounts/new?request=" in text_of(said)
            assert len(self.peer.exchanges) == before
            return None
        assert fields_of(said)["status"] == "completed"
        return self.peer.exchanges[-1].headers["authorization"].removeprefix("Bearer ")


@asynccontextmanager
async def scene(home: Path, place: Path, redis_url: str | None = None) -> AsyncGenerator[Scene]:
    agent = f"a{str(new_id())[-10:]}"
    async with OpenAIPeer() as peer, AccountProviderPeer() as provider:
        config = 'organization_claim = "org"\n' + configured(agent, peer, provider, 'needs_account = "vendor"')
        async with open_setup(home, place, config, redis_url=redis_url) as at:
            at.issuer.secret = None
            names = {who: f"{who.split()[0]}-{new_id().hex}" for who in (COLLEAGUE, STRANGER)}
            others = {who: await at.signed(name) for who, name in names.items()}
            here, there = at.principal.org_id, others[STRANGER].org_id
            joins = "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3)"
            await execute(home, joins, here, others[COLLEAGUE].user_id, "owner")
            await execute(home, joins, there, at.principal.user_id, "owner")
            yield Scene(
                at=at,
                agent=agent,
                peer=peer,
                provider=provider,
                ann=await visitor(at, at.ann, org=str(here)),
                attackers={
                    COLLEAGUE: await visitor(at, names[COLLEAGUE], org=str(here)),
                    STRANGER: await visitor(at, names[STRANGER], org=str(there)),
                    ELSEWHERE: await visitor(at, at.ann, org=str(there)),
                },
            )


async def visitor(at: KeyPageSetup, subject: str, **claims: str) -> Visitor:
    return Visitor(subject, await at.signed(subject, **claims), claims)


@pytest.mark.parametrize("attacker", ATTACKERS)
async def test_her_link_leads_nobody_else_to_the_provider(attacker: str, edge_home: Path, tmp_path: Path) -> None:
    async with scene(edge_home, tmp_path) as here:
        url = await link(here.at, here.ann.principal)
        refused = await here.browser(here.attackers[attacker]).open(url)
        assert (refused.status_code, "You signed in" in refused.text) == (403, True)
        assert here.provider.exchanges == []
        # It was tried, and is hers still.
        browser = here.browser(here.ann)
        assert (await browser.open(offered(await browser.open(url)))).status_code == 200
        assert await here.connected(here.ann) == [AccountState.CONNECTED]


@pytest.mark.parametrize("attacker", ATTACKERS)
async def test_an_answer_of_the_provider_is_for_the_visit_that_asked(
    attacker: str, edge_home: Path, tmp_path: Path
) -> None:
    async with scene(edge_home, tmp_path) as here:
        eve = here.attackers[attacker]
        theirs, hers = here.browser(eve), here.browser(here.ann)
        here.browser(eve)
        eves_answer = await back(theirs, await theirs.open(await link(here.at, eve.principal)))
        here.browser(here.ann)
        her_answer = await back(hers, await hers.open(await link(here.at, here.ann.principal)))
        assert (await theirs.open(her_answer)).status_code == 401
        # Else an account of Eve's would pay for Ann, and Eve would see there what Ann asks.
        assert (await hers.open(eves_answer)).status_code == 401
        assert (await Browser(here.at.http, ORIGIN, here.at.place.base).open(her_answer)).status_code == 401
        assert (await here.connected(here.ann), await here.connected(eve)) == ([], [])
        assert not [exchange for exchange in here.provider.exchanges if exchange.path == "/token"]
        assert (await hers.open(her_answer)).status_code == 200
        assert await here.connected(here.ann) == [AccountState.CONNECTED]


@pytest.mark.parametrize("attacker", [COLLEAGUE, STRANGER])
async def test_the_page_shows_and_changes_nobody_elses_account(attacker: str, edge_home: Path, tmp_path: Path) -> None:
    async with scene(edge_home, tmp_path) as here:
        eve, exchanged = here.attackers[attacker], len(here.provider.exchanges)
        hers = here.browser(here.ann)
        await connect_from_page(hers)
        her_form = button(await hers.open(OVERVIEW), "Disconnect")
        theirs = here.browser(eve)
        page = await theirs.open(OVERVIEW)
        assert row(page) == ["vendor", "not connected", ""]
        assert str(here.ann.principal.user_id) not in page.text
        # With the token of her own visit there is no such account; with Ann's it is no form of this visit.
        eves_form = replace(button(page, "Connect"), action="/accounts/")
        assert (await theirs.submit(eves_form)).status_code == 404
        assert (await theirs.submit(her_form)).status_code == 403
        assert (await here.connected(here.ann), await here.connected(eve)) == ([AccountState.CONNECTED], [])
        await connect_from_page(theirs)
        assert (await theirs.submit(eves_form)).status_code == 303
        assert (await here.connected(here.ann), await here.connected(eve)) == ([AccountState.CONNECTED], [])
        revoked = [each for each in here.provider.exchanges[exchanged:] if each.path == "/revoke"]
        assert len(revoked) == 1
        assert await here.ask(here.ann) is not None


async def test_the_page_is_for_the_organisation_that_was_signed_in_for_and_all_of_ones_accounts(
    edge_home: Path, tmp_path: Path
) -> None:
    async with scene(edge_home, tmp_path) as here:
        elsewhere = here.attackers[ELSEWHERE]
        await connect_from_page(here.browser(here.ann))
        browser = here.browser(elsewhere)
        page = await browser.open(OVERVIEW)
        assert row(page)[:2] == ["vendor", "connected"]
        leave = "DELETE FROM public.organization_members WHERE user_id = $1 AND organization_id = $2"
        await execute(edge_home, leave, elsewhere.principal.user_id, elsewhere.principal.org_id)
        assert (await browser.submit(button(page, "Disconnect"))).status_code == 403
        assert await here.connected(here.ann) == [AccountState.CONNECTED]


@pytest.mark.parametrize("attacker", ATTACKERS)
async def test_nobodys_account_is_connected_in_a_visit_that_another_began(
    attacker: str, edge_home: Path, tmp_path: Path
) -> None:
    async with scene(edge_home, tmp_path) as here:
        eve = here.attackers[attacker]
        theirs = here.browser(eve)
        way_back = (await theirs.step((await theirs.step(OVERVIEW)).headers["location"])).headers["location"]
        offer = await press(theirs, await theirs.open(OVERVIEW), "Connect")
        eves_answer, hers = await back(theirs, offer), here.browser(here.ann)
        # Led to the end of Eve's sign-in, or to her way to the provider, Ann's browser is in no visit of Eve's.
        for address in (way_back, eves_answer, offered(offer)):
            assert (await hers.open(address)).status_code == 401
            assert hers.cookies == {}
        page = await hers.open(OVERVIEW)
        assert f"<strong>{here.ann.principal.user_id}</strong>" in page.text
        her_answer = await back(hers, await press(hers, page, "Connect"))
        for address in (way_back, eves_answer, offered(offer)):
            assert (await hers.open(address)).status_code == 401
        assert (await theirs.open(her_answer)).status_code == 401
        assert not [exchange for exchange in here.provider.exchanges if exchange.path == "/token"]
        assert (await hers.open(her_answer)).status_code == 200
        is_ann = eve.principal.user_id == here.ann.principal.user_id
        assert await here.connected(eve) == ([AccountState.CONNECTED] if is_ann else [])


async def test_a_state_serves_one_answer(edge_home: Path, tmp_path: Path) -> None:
    async with scene(edge_home, tmp_path) as here:
        browser = here.browser(here.ann)
        answer = await back(browser, await browser.open(await link(here.at, here.ann.principal)))
        first = dict(browser.cookies)
        assert (await browser.open(answer)).status_code == 200
        await browser.open(await link(here.at, here.ann.principal))
        assert (await browser.open(answer)).status_code == 401  # the visit of a second link has a state of its own
        browser.cookies = first
        assert (await browser.open(answer)).status_code == 404  # the visit of the first is over
        assert len([exchange for exchange in here.provider.exchanges if exchange.path == "/token"]) == 1


async def test_each_account_pays_and_is_ended_for_its_own_user_alone(
    edge_home: Path, tmp_path: Path, valkey: Valkey
) -> None:
    async with scene(edge_home, tmp_path, valkey.url) as here:
        others = [here.attackers[who] for who in (COLLEAGUE, STRANGER)]
        await here.connect(here.ann)
        hers = await here.ask(here.ann)
        assert hers is not None
        for eve in others:
            assert (await here.connected(eve), await here.ask(eve)) == ([], None)
            with pytest.raises(NotFoundError):
                await here.at.services.accounts.disconnect(eve.everything, "vendor")
            await here.connect(eve)
        tokens = [await here.ask(who) for who in (here.ann, *others)]
        assert tokens[0] == hers
        assert len(set(tokens)) == len(tokens)
        # An account is its user's in all of their organisations.
        assert await here.ask(here.attackers[ELSEWHERE]) == hers
        for eve in others:
            await here.at.services.accounts.disconnect(eve.everything, "vendor")
        assert [await here.ask(who) for who in (here.ann, *others)] == [hers, None, None]


async def test_a_copy_in_redis_serves_under_the_name_of_its_user_alone(
    edge_home: Path, tmp_path: Path, valkey: Valkey
) -> None:
    async with scene(edge_home, tmp_path, valkey.url) as here:
        without, eve = here.attackers[COLLEAGUE], here.attackers[STRANGER]
        await here.connect(here.ann)
        await here.connect(eve)
        hers, eves = await here.ask(here.ann), await here.ask(eve)
        names = {who: f"oauth_token:{who.principal.user_id}:vendor" for who in (here.ann, without, eve)}
        assert sorted(valkey.keys("oauth_token:*")) == sorted([names[here.ann], names[eve]])
        copies = [str(valkey.run("GET", names[who])) for who in (here.ann, eve)]
        assert not [secret for secret in (str(hers), str(eves), "refresh") if secret in " ".join(copies)]
        for stolen in (*copies, "", "eA=="):
            for name in names.values():
                valkey.run("SET", name, stolen)
            assert [await here.ask(who) for who in (here.ann, without, eve)] == [hers, None, eves]
