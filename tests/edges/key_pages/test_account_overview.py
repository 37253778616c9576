"""The page of a user's accounts: it stands at one address, and shows and changes those of who signed in there."""

import asyncio
import html
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import pytest

from agentapi_mcp.auth.keys import metadata_urls
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import Issuer, SignInRules
from agentapi_mcp.core.accounts.models import AccountState
from agentapi_mcp.core.audit.models import AuditFilter
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.edges.key_pages.answers import failure
from tests.edges.key_pages.test_account_pages import back, connected, everything, link, offered, open_pages
from tests.edges.key_pages.test_key_pages import KEY, ORIGIN, SIGNING, KeyPageSetup, execute, number, open_setup
from tests.support.browsers import Browser, Form, forms_of
from tests.support.clocks import LaterClock
from tests.support.peers.account_provider import AccountProviderPeer, described
from tests.support.peers.authorizer import CLIENT, AuthorizerPeer
from tests.support.peers.issuer import Mood
from tests.support.suspensions import WAYS

OVERVIEW = f"{ORIGIN}/accounts/"
COOKIE = "__Host-agentapi-accounts"
QUARTER = timedelta(minutes=15)
SECOND = timedelta(seconds=1)
# Those of `WAYS` whose columns a database of ours has.
LOST = ("removed", "suspended", "organisation deleted")


def button(page: httpx2.Response, name: str) -> Form:
    """Return the only form of a page with this button."""
    assert page.status_code == 200, page.text
    (form,) = [form for form in forms_of(page) if form.button == name]
    return form


def buttons(page: httpx2.Response) -> list[str]:
    """List the buttons of a page but the one that it always has."""
    found = [form.button for form in forms_of(page)]
    found.remove("Sign out")
    return found


async def press(browser: Browser, page: httpx2.Response, name: str) -> httpx2.Response:
    """Press a button, and go where that leads."""
    answer = await browser.submit(button(page, name))
    return await browser.open(answer.headers["location"]) if answer.has_redirect_location else answer


async def connect(browser: Browser) -> httpx2.Response:
    """Connect an account from the page, and return the page that says so."""
    offer = await press(browser, await browser.open(OVERVIEW), "Connect")
    return await browser.open(offered(offer))


def row(page: httpx2.Response) -> list[str]:
    """Read the only row of the page, without its forms."""
    (cells,) = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', page.text)
    return [html.unescape(cell) for cell in cells]


async def actions(at: KeyPageSetup, who: Principal) -> list[tuple[str, str | None]]:
    """List what the audit log has of somebody and accounts, with the address."""
    await at.services.audit.flush()
    reader = replace(who, role=Role.OWNER, scopes=None)
    events = (await at.services.audit.list_(reader, AuditFilter(user_id=who.user_id))).items
    return [(each.action, each.via) for each in events if each.action.startswith("account")][::-1]


async def test_a_user_connects_sees_and_disconnects_an_account(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        page = await browser.open(OVERVIEW)
        assert (browser.place, list(browser.cookies)) == (OVERVIEW, [COOKIE])
        assert f"For the account <strong>{at.principal.user_id}</strong> in the organisation" in page.text
        assert row(page) == ["vendor", "not connected", ""]
        offer = await press(browser, page, "Connect")
        assert browser.place == f"{ORIGIN}/accounts/connect"
        assert f"For the account <strong>{at.principal.user_id}</strong>" in offer.text
        done = await browser.open(offered(offer))
        assert (done.status_code, '<a href="/accounts/">' in done.text) == (200, True)
        page = await browser.step(OVERVIEW)  # the visit goes on: nobody has to sign in again
        (account,) = await at.services.accounts.list_(everything(at))
        assert row(page) == ["vendor", "connected", f"{account.connected_at:%Y-%m-%d %H:%M}"]
        assert buttons(page) == ["Disconnect"]
        after = await press(browser, page, "Disconnect")
        assert "Removed your account at vendor; nothing is sent with it any more." in after.text
        assert "Its tokens are revoked at vendor, too." in after.text
        assert row(after) == ["vendor", "not connected", ""]
        assert await connected(at) == []
        issuer = at.issuer.issuer
        assert await actions(at, at.principal) == [("account_connected", issuer), ("account_disconnected", issuer)]


async def test_the_page_is_found_without_the_last_slash(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        led = await browser.step("/accounts")
        assert (led.status_code, led.headers["location"]) == (303, "/accounts/")
        assert (await browser.open("/accounts")).status_code == 200
        assert browser.place == OVERVIEW


async def test_no_page_and_no_log_has_a_token(
    edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_pages(edge_home, tmp_path) as (at, provider):
        browser = at.browser()
        done = await connect(browser)
        page = await browser.open(OVERVIEW)
        accounts = (await at.services.wallet.means(at.principal)).accounts
        token = (await at.services.accounts.token(at.principal, accounts, "vendor")).value.get_secret_value()
        form_token = button(page, "Disconnect").fields["form_token"]
        after = await press(browser, page, "Disconnect")
        assert not provider.accepts(token)
        for answer in (done, page, after):
            assert answer.headers["cache-control"] == "no-store"
            assert "default-src 'none'; form-action 'self'" in answer.headers["content-security-policy"]
            assert "<script" not in answer.text
            assert token not in answer.text
    ours = [each for each in caplog.records if not each.name.startswith(("httpx2", "httpcore2"))]  # the test's own
    logged = "\n".join(str(vars(each)) for each in ours)
    assert [hidden for hidden in (token, form_token) if hidden in logged] == []


async def test_the_page_says_what_the_provider_did_not_revoke(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, provider):
        browser = at.browser()
        await connect(browser)
        provider.lies.metadata = {"revocation_endpoint": None}
        page = await press(browser, await browser.open(OVERVIEW), "Disconnect")
        assert "Its tokens could not be revoked at vendor: end them on its page" in page.text
        assert await connected(at) == []
        # Twice by mistake: there is nothing more to disconnect, and the page leads back.
        again = await browser.submit(Form("/accounts/", {**forms_of(page)[0].fields, "provider": "vendor"}, ""))
        assert (again.status_code, '<a href="/accounts/">' in again.text) == (404, True)
        assert "agentapi-mcp" not in again.text  # the command is the operator's


async def test_a_reload_of_what_follows_a_disconnect_disconnects_nothing(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        await connect(browser)
        sent = await browser.submit(button(await browser.open(OVERVIEW), "Disconnect"))
        assert (sent.status_code, sent.headers["location"]) == (303, "/accounts/")
        told = await browser.step(OVERVIEW)
        assert "Removed your account at vendor" in told.text
        await connect(browser)
        reloaded = await browser.step(OVERVIEW)  # of what `told` shows
        assert (row(reloaded)[1], "Removed" in reloaded.text) == ("connected", False)
        assert await connected(at) == [AccountState.CONNECTED]


async def test_what_was_removed_is_told_once_and_not_after_what_came_later(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        await connect(browser)
        page = await browser.open(OVERVIEW)
        await browser.submit(button(page, "Disconnect"))
        told = [("Removed your account" in (await browser.step(OVERVIEW)).text) for _ in range(2)]
        assert told == [True, False]
        await connect(browser)
        await browser.submit(button(page, "Disconnect"))
        again = replace(button(page, "Disconnect"), action="/accounts/connect")
        await browser.open(offered(await browser.open((await browser.submit(again)).headers["location"])))
        assert "Removed" not in (await browser.step(OVERVIEW)).text


async def test_an_account_that_is_revoked_or_left_the_file_can_be_disconnected(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        await connect(browser)
        await set_state(edge_home, at.principal, AccountState.REVOKED)
        page = await browser.open(OVERVIEW)
        assert (row(page)[1], buttons(page)) == ("revoked", ["Connect again", "Disconnect"])
        await browser.open(offered(await press(browser, page, "Connect again")))
        assert await connected(at) == [AccountState.CONNECTED]
        await set_state(edge_home, at.principal, AccountState.REVOKED)
        at.services.accounts.reload(())
        assert buttons(await browser.open(OVERVIEW)) == ["Disconnect"]
        await set_state(edge_home, at.principal, AccountState.CONNECTED)
        page = await browser.open(OVERVIEW)
        assert (row(page)[:2], buttons(page)) == (["vendor", "connected"], ["Disconnect"])
        gone = await press(browser, page, "Disconnect")
        assert ("could not be revoked" in gone.text, "connects no accounts" in gone.text) == (True, True)
        assert await connected(at) == []


async def set_state(home: Path, who: Principal, state: AccountState) -> None:
    """Write the state of somebody's account, as a refused renewal does."""
    change = "UPDATE public.mcp_sessions SET oauth_data = jsonb_set(oauth_data, '{vendor,state}', to_jsonb($2::text)) "
    await execute(home, change + "WHERE session_id = 'oauth/' || $1::uuid", who.user_id, str(state))


async def test_a_form_that_is_not_of_this_visit_changes_nothing(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, provider):
        browser, other = at.browser(), at.browser()
        page, others = await browser.open(OVERVIEW), await other.open(OVERVIEW)
        theirs = button(others, "Connect").fields["form_token"]

        async def refused(form: Form) -> None:
            for origin in ("https://evil.example", "null", ""):
                assert (await browser.submit(form, origin)).status_code == 403
            for token in ("", "x", "é", theirs):
                assert (await browser.submit(form, form_token=token)).status_code == 403
            cookie = {"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"}
            alone = await at.http.post(f"{at.place.base}{form.action}", data=form.fields, headers=cookie)
            assert (alone.status_code, "not sent from this page" in alone.text) == (403, True)
            without = Form(form.action, {"provider": "vendor"}, "")
            assert (await browser.submit(without)).status_code == 403
            cookies, browser.cookies = dict(browser.cookies), {}
            assert (await browser.submit(form)).status_code == 401
            browser.cookies = cookies

        exchanges = len(provider.exchanges)
        await refused(button(page, "Connect"))
        assert await links_of(edge_home, at.principal) == 0
        assert len(provider.exchanges) == exchanges
        await connect(browser)
        page = await browser.open(OVERVIEW)
        await refused(button(page, "Disconnect"))
        assert await connected(at) == [AccountState.CONNECTED]
        assert (await browser.submit(button(page, "Disconnect"))).status_code == 303
        assert await connected(at) == []


@pytest.mark.parametrize("provider", ["", "another", "Vendor", "../vendor"])
async def test_there_is_nothing_to_do_at_a_provider_that_is_not_there(
    provider: str, edge_home: Path, tmp_path: Path
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        fields = button(await browser.open(OVERVIEW), "Connect").fields | {"provider": provider}
        for action in ("/accounts/", "/accounts/connect"):
            assert (await browser.submit(Form(action, fields, ""))).status_code == 404
        assert await links_of(edge_home, at.principal) == 0


@pytest.mark.parametrize("sent", ["a\0b", "a\u202eb", "a\u200fb", "v" * 9000, "<b>\u2066"], ids=ascii)
async def test_no_page_shows_raw_what_came_with_a_request(sent: str, edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        form = button(await browser.open(OVERVIEW), "Connect")
        answers = [
            await browser.submit(replace(form, action=action), provider=sent)
            for action in ("/accounts/", "/accounts/connect")
        ]
        assert "You have no account at" in answers[0].text
        query = quote(sent)
        paths = ("sign-in?issuer=", "new?request=", "callback?error=", "signed-in?error=")
        answers += [await at.browser().step(f"{OVERVIEW}{path}{query}") for path in paths]
        key_browser = at.browser()
        answers.append(await key_browser.send(await key_browser.open(await at.link()), sent))
        for answer in answers:
            assert answer.status_code in {400, 401, 404}
            assert answer.text.isprintable()
            assert ("v" * 500 in answer.text, "<b>" in answer.text) == (False, False)


@pytest.mark.parametrize("name", ["a\u202eb", "v" * 9000], ids=ascii)
def test_a_message_is_shown_as_one_line_that_ends(name: str) -> None:
    shown = bytes(failure(f"There is nothing at {name}.\n", 404).body).decode()
    assert (shown.isprintable(), len(shown) < 2000, "There is nothing at" in shown) == (True, True, True)


async def links_of(home: Path, who: Principal) -> int:
    """Count the requests for accounts of somebody."""
    return await number(home, "SELECT count(*) FROM agentapi.key_requests WHERE user_id = $1", who.user_id)


async def press_disconnect(browser: Browser, page: httpx2.Response) -> httpx2.Response:
    return await browser.submit(button(page, "Disconnect"))


async def ask_to_connect(browser: Browser, page: httpx2.Response) -> httpx2.Response:
    return await browser.submit(replace(button(page, "Disconnect"), action="/accounts/connect"))


async def look(browser: Browser, _page: httpx2.Response) -> httpx2.Response:
    return await browser.step(OVERVIEW)


@pytest.mark.parametrize("step", [press_disconnect, ask_to_connect, look])
@pytest.mark.parametrize("way", LOST)
async def test_who_lost_the_organisation_since_the_sign_in_is_refused_at_every_step(
    way: str,
    step: Callable[[Browser, httpx2.Response], Awaitable[httpx2.Response]],
    edge_home: Path,
    tmp_path: Path,
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, provider):
        browser = at.browser()
        await connect(browser)
        page, exchanges = await browser.open(OVERVIEW), len(provider.exchanges)
        await lose(edge_home, way, at.principal.user_id, at.principal.org_id)
        refused = await step(browser, page)
        assert (refused.status_code, forms_of(refused)) == (403, [])
        assert "vendor" not in refused.text
        assert len(provider.exchanges) == exchanges
        assert await connected(at) == [AccountState.CONNECTED]


@pytest.mark.parametrize("way", LOST)
async def test_who_lost_the_organisation_during_the_consent_connects_nothing(
    way: str, edge_home: Path, tmp_path: Path
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, provider):
        browser = at.browser()
        address = await back(browser, await press(browser, await browser.open(OVERVIEW), "Connect"))
        await lose(edge_home, way, at.principal.user_id, at.principal.org_id)
        assert (await browser.open(address)).status_code == 403
        assert await connected(at) == []
        assert not [exchange for exchange in provider.exchanges if exchange.path == "/token"]


async def test_whose_identity_was_unlinked_since_the_sign_in_does_nothing_more(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, provider):
        browser, connecting, by_link, key_browser = (at.browser() for _ in range(4))
        await connect(browser)
        page = await browser.open(OVERVIEW)
        begin = replace(button(page, "Disconnect"), action="/accounts/connect")
        offer = await connecting.open(OVERVIEW)
        again = replace(begin, fields=button(offer, "Sign out").fields | {"provider": "vendor"})
        address = await back(connecting, await connecting.open((await connecting.submit(again)).headers["location"]))
        await by_link.open(await link(at))
        key_page, exchanges = await key_browser.open(await at.link()), len(provider.exchanges)
        await execute(edge_home, "DELETE FROM agentapi.identities WHERE user_id = $1", at.principal.user_id)
        for refused in (
            await press_disconnect(browser, page),
            await ask_to_connect(browser, page),
            await connecting.step(address),
            await by_link.step("/accounts/connect"),
            await key_browser.step("/keys/enter"),
            await key_browser.send(key_page, KEY),
        ):
            assert (refused.status_code, "does not lead to this account" in refused.text) == (401, True)
        assert (await browser.step(OVERVIEW)).headers["location"].startswith(f"{at.issuer.origin}/authorize?")
        assert len(provider.exchanges) == exchanges
        assert (await connected(at), await at.keys()) == ([AccountState.CONNECTED], [])
        # Who signs in now is whom the identity leads to now.
        assert str(at.principal.user_id) not in (await browser.open(OVERVIEW)).text


async def lose(home: Path, way: str, user_id: UserId, org_id: OrgId) -> None:
    await execute(home, WAYS[way][0], user_id, org_id)


async def test_who_may_keep_no_keys_any_more_has_no_page(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        await connect(browser)
        page = await browser.open(OVERVIEW)
        make = "UPDATE public.organization_members SET role = 'viewer' WHERE user_id = $1"
        await execute(edge_home, make, at.principal.user_id)
        for step in (press_disconnect, ask_to_connect, look):
            assert (await step(browser, page)).status_code == 403
        # Nor does a sign-in let them in, which the audit log says with the page.
        assert (await at.browser().open(OVERVIEW)).status_code == 403
        await at.services.audit.flush()
        reader = replace(at.principal, role=Role.OWNER, scopes=None)
        events = (await at.services.audit.list_(reader, AuditFilter(user_id=at.principal.user_id))).items
        denied = [event.target for event in events if event.action == "permission_denied"]
        assert ("page", "/accounts/") in denied
        assert await connected(at) == [AccountState.CONNECTED]


async def test_who_signed_in_at_an_issuer_that_left_the_file_signs_in_anew(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser, authenticator = at.browser(), at.services.authenticator
        assert authenticator is not None
        await connect(browser)
        page = await browser.open(OVERVIEW)
        await authenticator.reload(SignInRules())
        assert (await press_disconnect(browser, page)).status_code == 401
        nobody = await browser.step(OVERVIEW)
        assert (nobody.status_code, "client_id" in nobody.text) == (404, True)
        assert await connected(at) == [AccountState.CONNECTED]


async def test_a_visit_ends_after_a_quarter_of_an_hour_whatever_is_done_in_it(edge_home: Path, tmp_path: Path) -> None:
    clock = LaterClock()
    async with (
        AccountProviderPeer() as provider,
        open_setup(edge_home, tmp_path, described(provider, "vendor"), clock=clock) as at,
    ):
        at.issuer.secret = None
        browser = at.browser()
        page = await browser.open(OVERVIEW)
        clock.later = QUARTER - 30 * SECOND
        assert (await connect(browser)).status_code == 200  # which seals the visit three times
        page = await browser.step(OVERVIEW)
        assert page.status_code == 200
        clock.later = QUARTER + 30 * SECOND
        ended = await press_disconnect(browser, page)
        assert (ended.status_code, "has ended" in ended.text) == (401, True)
        assert (await ask_to_connect(browser, page)).status_code == 401
        assert (await browser.step(OVERVIEW)).headers["location"].startswith(f"{at.issuer.origin}/authorize?")
        assert await connected(at) == [AccountState.CONNECTED]


async def test_a_consent_that_took_its_time_does_not_shorten_the_visit(edge_home: Path, tmp_path: Path) -> None:
    clock = LaterClock()
    async with (
        AccountProviderPeer() as provider,
        open_setup(edge_home, tmp_path, described(provider, "vendor"), clock=clock) as at,
    ):
        at.issuer.secret = None
        browser = at.browser()
        assert (await connect(browser)).status_code == 200
        clock.later = QUARTER - 30 * SECOND
        assert (await browser.step(OVERVIEW)).status_code == 200


async def test_the_answer_of_one_provider_is_not_taken_to_another(edge_home: Path, tmp_path: Path) -> None:
    async with (
        AccountProviderPeer() as one,
        AccountProviderPeer() as two,
        open_setup(edge_home, tmp_path, described(one, "one") + described(two, "two")) as at,
    ):
        at.issuer.secret = None
        browser = at.browser()
        first, second, _ = forms_of(await browser.open(OVERVIEW))
        offer = await browser.open((await browser.submit(first)).headers["location"])
        answer = await back(browser, offer)
        request = await browser.submit(second)
        assert (await browser.open(answer)).status_code == 401
        offer = await browser.open(request.headers["location"])
        assert (await browser.open(answer)).status_code == 401
        assert not [each for each in (*one.exchanges, *two.exchanges) if each.path == "/token"]
        assert (await browser.open(offered(offer))).status_code == 200
        assert [account.provider for account in await at.services.accounts.list_(everything(at))] == ["two"]


async def test_nothing_is_written_before_somebody_has_signed_in(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        stranger, before = at.browser(f"new-{at.ann}"), await rows(edge_home, at)
        login = (await stranger.step(OVERVIEW)).headers["location"]
        assert login.startswith(f"{at.issuer.origin}/authorize?")
        assert (
            (await stranger.step(f"{OVERVIEW}sign-in")).headers["location"].startswith(f"{at.issuer.origin}/authorize?")
        )
        for path in (
            "sign-in?issuer=https://evil.example",
            "connect",
            "signed-in?code=x&state=y",
            "callback",
        ):
            assert (await stranger.step(f"{OVERVIEW}{path}")).status_code in {401, 404}
        for action in ("/accounts/", "/accounts/connect"):
            fields = {"provider": "vendor", "form_token": ""}
            assert (await stranger.submit(Form(action, fields, ""))).status_code == 401
        assert await rows(edge_home, at) == before
        await stranger.open(OVERVIEW)
        assert await rows(edge_home, at) != before


async def rows(home: Path, at: KeyPageSetup) -> list[int]:
    """Count the rows of all tables that a visit could write to."""
    await at.services.audit.flush()
    return [
        await number(home, "SELECT count(*) FROM agentapi.key_requests"),
        await number(home, "SELECT count(*) FROM agentapi.identities"),
        await number(home, "SELECT count(*) FROM agentapi.audit_events"),
        await number(home, "SELECT count(*) FROM public.profiles"),
        await number(home, "SELECT count(*) FROM public.organizations"),
        await number(home, "SELECT count(*) FROM public.mcp_sessions"),
    ]


async def test_a_sign_in_lets_in_the_browser_that_began_it_and_no_other(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        eve = at.browser(f"eve-{at.ann}")
        eves_way_back = (await eve.step((await eve.step(OVERVIEW)).headers["location"])).headers["location"]
        assert eves_way_back.startswith(f"{ORIGIN}/accounts/signed-in?")
        victim = at.browser()
        assert (await victim.step(eves_way_back)).status_code == 401
        assert victim.cookies == {}
        login = (await victim.step(OVERVIEW)).headers["location"]
        begun = victim.cookies[COOKIE]
        assert (await victim.step(eves_way_back)).status_code == 401  # the state of another sign-in
        assert (await victim.step("/accounts/connect")).status_code == 401
        page = await victim.open(login)
        assert f"<strong>{at.principal.user_id}</strong>" in page.text
        # What the browser had before the sign-in opens nothing after it.
        assert victim.cookies[COOKIE] != begun
        victim.cookies[COOKIE] = begun
        assert (await victim.submit(button(page, "Connect"))).status_code == 401


async def test_a_link_is_for_its_account_and_the_page_serves_no_link(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        by_link, by_page = at.browser(), at.browser()
        await by_link.open(await link(at))
        # The page does not take the sign-in of a link for its own.
        assert (await by_link.step(OVERVIEW)).headers["location"].startswith(f"{at.issuer.origin}/authorize?")
        page = await by_page.open(OVERVIEW)
        for path in ("/accounts/connect", "/accounts/callback?code=x"):
            assert (await by_page.step(path)).status_code == 404
        by_page.cookies["__Host-agentapi-keys"] = by_page.cookies[COOKIE]
        assert (await by_page.step("/keys/enter")).status_code == 401
        # Each request is used once, as a link is.
        address = await back(by_page, await press(by_page, page, "Connect"))
        cookies = dict(by_page.cookies)
        assert (await by_page.open(address)).status_code == 200
        assert (await by_page.open(address)).status_code == 404
        by_page.cookies = cookies
        assert (await by_page.open(address)).status_code == 404
        assert await connected(at) == [AccountState.CONNECTED]


async def test_many_who_begin_a_sign_in_make_one_look_at_the_issuer(edge_home: Path, tmp_path: Path) -> None:
    clock = LaterClock()
    async with (
        AccountProviderPeer() as provider,
        open_setup(edge_home, tmp_path, described(provider, "vendor"), clock=clock) as at,
    ):
        at.issuer.secret = None

        async def looks(mood: Mood) -> tuple[set[int], int]:
            at.issuer.mood, before = mood, len(at.issuer.exchanges)
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(at.browser().step(OVERVIEW)) for _ in range(12)]
            answers = [task.result() for task in asked]
            looked = [each for each in at.issuer.exchanges[before:] if "jwks" not in each.path]
            return {answer.status_code for answer in answers}, len(looked)

        refused, failed = await looks("fails")
        assert (refused, failed <= len(metadata_urls(at.issuer.issuer))) == ({401}, True)
        assert failed > 0
        assert await looks("well") == ({401}, 0)  # a failure is remembered for seconds
        clock.later += 6 * SECOND
        assert await looks("well") == ({303}, 1)
        clock.later += timedelta(minutes=4)
        assert await looks("fails") == ({303}, 0)
        clock.later += timedelta(minutes=2)
        assert (await looks("fails"))[0] == {401}


async def test_who_left_the_visit_of_a_link_is_told_that_the_link_is_good(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser, url = at.browser(), await link(at)
        address = await back(browser, await browser.open(url))
        await browser.open(OVERVIEW)  # in another tab
        for path in (address, "/accounts/connect"):
            left = await browser.step(path)
            assert (left.status_code, "Another visit has begun" in left.text) == (404, True)
        assert (await browser.open(offered(await browser.open(url)))).status_code == 200
        assert await connected(at) == [AccountState.CONNECTED]


async def test_who_can_sign_in_in_several_places_chooses_one(edge_home: Path, tmp_path: Path) -> None:
    async with AuthorizerPeer(SIGNING) as second, AccountProviderPeer() as provider:
        tables = (
            f'[[issuers]]\nissuer = "{second.issuer}"\nnewcomers = "personal"\nclient_id = {json.dumps(CLIENT)}\n'
            '[[issuers]]\nissuer = "https://tokens.example"\n'
        )
        async with open_setup(edge_home, tmp_path, tables + described(provider, "vendor")) as at:
            at.issuer.secret = second.secret = None
            second.subject = at.ann
            browser = at.browser()
            page = await browser.step(OVERVIEW)
            links = [html.unescape(address) for address in re.findall(r'<a href="([^"]*)"', page.text)]
            assert [parse_qs(urlsplit(address).query)["issuer"] for address in links] == [
                [at.issuer.issuer],
                [second.issuer],
            ]
            first, other = await browser.open(links[0]), await at.browser().open(links[1])
            assert f"<strong>{at.principal.user_id}</strong>" in first.text
            # The same subject of another issuer is another person.
            assert (other.status_code, str(at.principal.user_id) in other.text) == (200, False)
            for issuer in ("https://tokens.example", "https://evil.example", ""):
                refused = await at.browser().step(f"{OVERVIEW}sign-in?issuer={issuer}")
                assert (refused.status_code, refused.has_redirect_location) == (401, False)


async def test_names_are_shown_as_text(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        (declared,) = at.services.accounts.providers
        name = '"><img src=x onerror=alert(1)>&amp;'
        at.services.accounts.reload([replace(declared, name=name)])
        who, where = at.principal.user_id, at.principal.org_id
        await execute(edge_home, "UPDATE public.profiles SET email = $1 WHERE id = $2", "<i>@example.com", who)
        await execute(edge_home, "UPDATE public.organizations SET name = $1 WHERE id = $2", "A <b>\u202e & Co", where)
        browser = at.browser()
        page = await browser.open(OVERVIEW)
        assert row(page) == [name, "not connected", ""]
        assert (
            "<strong>&lt;i&gt;@example.com</strong> in the organisation <strong>A &lt;b&gt; &amp; Co</strong>"
            in page.text
        )
        offer = await press(browser, page, "Connect")
        done = await browser.open(offered(offer))
        page = await browser.open(OVERVIEW)
        gone = await press(browser, page, "Disconnect")
        assert html.escape(f"Removed your account at {name}") in gone.text
        for answer in (offer, done, page, gone):
            assert [tag for tag in ("<img", "<i>", "<b>", "\u202e") if tag in answer.text] == []
        assert at.services.authenticator is not None
        issuers = (Issuer(issuer="https://one.example", client_id="c"), Issuer(issuer='"><img>', client_id="c"))
        await at.services.authenticator.reload(SignInRules(issuers=issuers))
        choice = await at.browser().step(OVERVIEW)
        assert ("https://one.example</a>" in choice.text, "<img" in choice.text) == (True, False)
