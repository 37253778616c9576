"""The page where an account is connected: it opens for who asked, after they have signed in, once."""

import html
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from agentapi_mcp.core.accounts.models import AccountState
from agentapi_mcp.core.identity.principals import Principal
from tests.edges.key_pages.test_key_pages import ORIGIN, KeyPageSetup, open_setup
from tests.support.browsers import Browser
from tests.support.peers.account_provider import AccountProviderPeer, described


@asynccontextmanager
async def open_pages(home: Path, place: Path) -> AsyncGenerator[tuple[KeyPageSetup, AccountProviderPeer]]:
    async with AccountProviderPeer() as provider, open_setup(home, place, described(provider, "vendor")) as at:
        at.issuer.secret = None
        yield at, provider


async def link(at: KeyPageSetup, principal: Principal | None = None) -> str:
    """Ask for a page."""
    url = await at.services.account_page_visits.invite(principal or at.principal, "vendor")
    assert url is not None
    assert url.startswith(f"{ORIGIN}/accounts/new?request=")
    return url


def offered(page: httpx2.Response) -> str:
    """Return the address at the provider that a page offers."""
    assert page.status_code == 200, page.text
    return html.unescape(re.findall(r'<a href="([^"]*)"', page.text)[0])


async def back(browser: Browser, page: httpx2.Response) -> str:
    """Consent at the provider, and return the address that it leads back to, without opening it."""
    return (await browser.step(offered(page))).headers["location"]


def everything(at: KeyPageSetup) -> Principal:
    """Return Ann as her own terminal knows her: her token has no scope to manage keys."""
    return replace(at.principal, scopes=None)


async def connected(at: KeyPageSetup) -> list[AccountState]:
    return [account.state for account in await at.services.accounts.list_(everything(at))]


async def test_who_asked_signs_in_consents_and_has_an_account(
    edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_pages(edge_home, tmp_path) as (at, _):
        url, browser = await link(at), at.browser()
        page = await browser.open(url)
        assert (browser.place, list(browser.cookies)) == (
            f"{ORIGIN}/accounts/connect",
            ["__Host-agentapi-accounts"],
        )
        asked = parse_qs(urlsplit(offered(page)).query)
        assert asked["redirect_uri"] == [f"{ORIGIN}/accounts/callback"]
        done = await browser.open(offered(page))
        assert (done.status_code, "is connected" in done.text, browser.cookies) == (200, True, {})
        assert await connected(at) == [AccountState.CONNECTED]
        for answer in (page, done):
            assert answer.headers["cache-control"] == "no-store"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["referrer-policy"] == "same-origin"
            assert "<script" not in answer.text
        token = (await at.services.wallet.means(at.principal)).accounts
        secret = (await at.services.accounts.token(at.principal, token, "vendor")).value.get_secret_value()
    ours = [each for each in caplog.records if not each.name.startswith(("httpx2", "httpcore2"))]  # the test's own
    logged = "\n".join(str(vars(each)) for each in ours)
    for hidden in (secret, url.partition("=")[2], asked["state"][0]):
        assert hidden not in logged


async def test_an_answer_serves_once(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        browser = at.browser()
        page = await browser.open(await link(at))
        cookies, address = dict(browser.cookies), await back(browser, page)
        assert (await browser.open(address)).status_code == 200
        browser.cookies = cookies
        assert (await browser.open(address)).status_code == 404
        browser.cookies = {}
        assert (await browser.open(address)).status_code == 401


async def test_a_link_for_a_key_is_none_for_an_account(edge_home: Path, tmp_path: Path) -> None:
    async with open_pages(edge_home, tmp_path) as (at, _):
        for url in (
            (await at.link()).replace("/keys/", "/accounts/"),
            (await link(at)).replace("/accounts/", "/keys/"),
        ):
            assert (await at.browser().open(url)).status_code == 404
        browser = at.browser()
        await browser.open(await at.link())
        browser.cookies["__Host-agentapi-accounts"] = browser.cookies["__Host-agentapi-keys"]
        assert (await browser.open(f"{ORIGIN}/accounts/connect")).status_code == 401


def deny(provider: AccountProviderPeer) -> None:
    provider.lies.denies = True


def change_state(provider: AccountProviderPeer) -> None:
    provider.lies.state = "another"


def fail(provider: AccountProviderPeer) -> None:
    provider.mood = "fails"


@pytest.mark.parametrize(("lie", "status"), [(deny, 401), (change_state, 401), (fail, 503)])
async def test_what_goes_wrong_at_the_provider_costs_no_link(
    lie: Callable[[AccountProviderPeer], None], status: int, edge_home: Path, tmp_path: Path
) -> None:
    async with open_pages(edge_home, tmp_path) as (at, provider):
        url, browser = await link(at), at.browser()
        page = await browser.open(url)
        before = provider.lies, provider.mood
        provider.lies = type(provider.lies)()
        lie(provider)
        assert (await browser.open(offered(page))).status_code == status
        provider.lies, provider.mood = before
        assert await connected(at) == []
        assert (await browser.open(offered(await browser.open(url)))).status_code == 200
        assert await connected(at) == [AccountState.CONNECTED]
