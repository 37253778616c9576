"""The end of a visit, and the way to sign in as somebody else; of the pages for keys and for accounts alike."""

import html
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from agentapi_mcp.core.access.models import Issuer, SignInRules
from agentapi_mcp.core.accounts.models import AccountState
from tests.edges.key_pages.test_account_overview import OVERVIEW, button, connect, lose, press, press_disconnect
from tests.edges.key_pages.test_account_pages import connected, link, offered, open_pages
from tests.edges.key_pages.test_key_pages import KEY, ORIGIN, KeyPageSetup, execute
from tests.support.browsers import Form


async def overview(_at: KeyPageSetup) -> str:
    return OVERVIEW


async def key_link(at: KeyPageSetup) -> str:
    return await at.link()


async def account_link(at: KeyPageSetup) -> str:
    return await link(at)


Way = Callable[[KeyPageSetup], Awaitable[str]]
WAYS_IN = pytest.mark.parametrize("way", [overview, key_link, account_link])
LINKS = pytest.mark.parametrize("way", [key_link, account_link])


def anew(refused: httpx2.Response) -> str:
    """Return where a page that refuses its visitor leads, to sign in as somebody else."""
    (address,) = re.findall(r'<a href="([^"]*)">Sign in as somebody else</a>', refused.text)
    return html.unescape(address)


@WAYS_IN
async def test_who_signs_out_leaves_a_browser_that_is_in_no_visit(way: Way, edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        page = await browser.open(await way(at))
        shown, (name,) = browser.place, browser.cookies
        folder = urlsplit(shown).path.split("/")[1]
        assert name == f"__Host-agentapi-{folder}"
        assert (await browser.step(f"/{folder}/signed-out")).status_code == 404  # a link to it says nothing untrue
        gone = await press(browser, page, "Sign out")
        assert (gone.status_code, browser.cookies) == (200, {})
        assert ("You are signed out" in gone.text, browser.place) == (True, f"{ORIGIN}/{folder}/signed-out")
        assert str(at.principal.user_id) not in gone.text
        again = await browser.step(shown)
        assert again.status_code == (303 if way is overview else 401)
        assert (await browser.submit(button(page, "Sign out"))).status_code == 401


async def test_nobody_signs_a_visitor_out_from_elsewhere(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser, other = at.browser(), at.browser()
        form = button(await browser.open(OVERVIEW), "Sign out")
        theirs = button(await other.open(OVERVIEW), "Sign out").fields["form_token"]
        for origin in ("https://evil.example", "null", ""):
            assert (await browser.submit(form, origin)).status_code == 403
        for token in ("", "x", theirs):
            assert (await browser.submit(form, form_token=token)).status_code == 403
        assert (await browser.step(form.action)).status_code == 405
        assert "not connected" in (await browser.step(OVERVIEW)).text


async def test_the_next_person_signs_in_after_a_sign_out_and_has_the_page_of_theirs(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        await connect(browser)
        page = await browser.open(OVERVIEW)
        gone = await press(browser, page, "Sign out")
        at.issuer.subject = f"bob-{at.ann}"
        login = (await browser.step(offered(gone))).headers["location"]
        # Else the issuer could bring back, without a question, who signed out.
        assert parse_qs(urlsplit(login).query)["prompt"] == ["login"]
        theirs = await browser.open(login)
        assert (str(at.principal.user_id) in theirs.text, "not connected" in theirs.text) == (False, True)
        assert (await press_disconnect(browser, page)).status_code == 403
        assert await connected(at) == [AccountState.CONNECTED]


async def test_who_signs_in_for_the_first_time_may_be_known_to_the_issuer(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        for way in (overview, key_link, account_link):
            login = (await at.browser().step(await way(at))).headers["location"]
            assert "prompt" not in parse_qs(urlsplit(login).query)


@pytest.mark.parametrize("way", ["removed", "suspended"])
async def test_who_is_refused_on_the_page_can_sign_in_as_somebody_else(
    way: str, edge_home: Path, tmp_path: Path
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        await browser.open(OVERVIEW)
        await lose(edge_home, way, at.principal.user_id, at.principal.org_id)
        refused = await browser.step(OVERVIEW)
        assert refused.status_code == 403
        at.issuer.subject = f"bob-{at.ann}"
        login = (await browser.step(anew(refused))).headers["location"]
        assert parse_qs(urlsplit(login).query)["prompt"] == ["login"]
        page = await browser.open(login)
        assert (page.status_code, browser.place, str(at.principal.user_id) in page.text) == (200, OVERVIEW, False)


async def test_a_link_to_the_sign_in_ends_no_visit(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        await browser.open(OVERVIEW)
        cookies = dict(browser.cookies)
        for query in ("", "?anew=yes", f"?issuer={at.issuer.issuer}", f"?issuer={at.issuer.issuer}&anew=yes"):
            led = await browser.step(f"{OVERVIEW}sign-in{query}")
            assert (led.status_code, led.headers["location"], browser.cookies) == (303, "/accounts/", cookies)
        # Nor does it keep in a visit whom the page has nothing to show.
        make = "UPDATE public.organization_members SET role = 'viewer' WHERE user_id = $1"
        await execute(edge_home, make, at.principal.user_id)
        refused = await browser.step(OVERVIEW)
        assert refused.status_code == 403
        assert (await browser.step(anew(refused))).headers["location"].startswith(f"{at.issuer.origin}/authorize?")


@LINKS
async def test_who_opened_a_link_as_somebody_else_can_sign_in_as_who_it_is_for(
    way: Way, edge_home: Path, tmp_path: Path
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser(f"eve-{at.ann}")
        refused = await browser.open(await way(at))
        assert refused.status_code == 403
        at.issuer.subject = at.ann
        login = (await browser.step(anew(refused))).headers["location"]
        assert parse_qs(urlsplit(login).query)["prompt"] == ["login"]
        page = await browser.open(login)
        assert (page.status_code, str(at.principal.user_id) in page.text) == (200, True)
        done = await (browser.send(page, KEY) if way is key_link else browser.open(offered(page)))
        assert done.status_code == 200
        # The link is used, and so is this way to it.
        assert (await browser.step("/keys/sign-in" if way is key_link else "/accounts/connect")).status_code == 401


async def test_only_errors_that_another_person_could_mend_lead_to_another_sign_in(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        fields = button(await browser.open(OVERVIEW), "Sign out").fields
        missing = await browser.submit(Form("/accounts/", fields | {"provider": "vendor"}, ""))
        assert (missing.status_code, "somebody else" in missing.text) == (404, False)


async def test_who_signs_in_as_somebody_else_chooses_where(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        assert at.services.authenticator is not None
        issuers = (
            Issuer(issuer=at.issuer.issuer, client_id="agentapi-pages"),
            Issuer(issuer="https://two.example", client_id="c"),
        )
        await at.services.authenticator.reload(SignInRules(issuers=issuers))
        browser = at.browser()
        for address, prompt in ((OVERVIEW, None), (f"{OVERVIEW}sign-in", ["login"])):
            login = (await browser.step(offered(await browser.step(address)))).headers["location"]
            assert login.startswith(f"{at.issuer.origin}/authorize?")
            assert parse_qs(urlsplit(login).query).get("prompt") == prompt
