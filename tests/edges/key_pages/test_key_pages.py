"""The page where a key is entered: it opens for who asked, after they have signed in, once."""

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.audit.models import AuditFilter
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.key_pages.pages import key_pages_mount
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.local.catalogue_files import load_catalogue
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.oauth import OAuth
from tests.support.browsers import Browser, forms_of
from tests.support.connect import open_edge
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.peers.authorizer import SECRET, AuthorizerPeer, Lies, described
from tests.support.peers.issuer import SigningKey
from tests.support.peers.openai import OpenAIPeer

ORIGIN = "https://agents.example.com"
RESOURCE = f"{ORIGIN}/mcp"
SIGNING = SigningKey("one")
KEY = "sk-entered-0123456789"


@dataclass
class KeyPageSetup:
    """A server, the issuer where its visitors sign in, and somebody who has asked for a page."""

    services: Services
    place: Served
    issuer: AuthorizerPeer
    http: httpx2.AsyncClient
    ann: str
    principal: Principal

    def browser(self, subject: str | None = None) -> Browser:
        """Return a browser, before which somebody sits: Ann, or who is named."""
        self.issuer.subject = subject or self.ann
        return Browser(self.http, ORIGIN, self.place.base)

    async def signed(self, subject: str, **more: object) -> Principal:
        """Make somebody a user, as their first request does."""
        authenticator = self.services.authenticator
        assert authenticator is not None
        claims = {"iss": self.issuer.issuer, "sub": subject, "aud": RESOURCE, "scope": "chat read", **more}
        return await authenticator.authenticate(SIGNING.sign(claims | {"exp": datetime.now(UTC).timestamp() + 300}))

    async def link(self, principal: Principal | None = None) -> str:
        """Ask for a page."""
        url = await self.services.key_page_visits.invite(principal or self.principal, "openrouter")
        assert url is not None
        return url

    async def keys(self) -> list[str]:
        """List the keys that Ann's turns are asked with."""
        found = (await self.services.api_keys.available(self.principal)).find("openrouter")
        return [] if found is None else [found.value.get_secret_value()]


@asynccontextmanager
async def open_setup(
    home: Path,
    place: Path,
    more: str = f'client_secret = "{SECRET}"\n',
    *,
    redis_url: str | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[KeyPageSetup]:
    async with AuthorizerPeer(SIGNING) as issuer, httpx2.AsyncClient(timeout=25) as http:
        config = place / "agentapi.toml"
        config.write_text(described(issuer) + more, encoding="utf-8")
        settings = Settings(
            home=home,
            config=config,
            resource_url=RESOURCE,
            master_key=SecretStr(base64.b64encode(token_bytes(32)).decode()),
            redis_url=None if redis_url is None else SecretStr(redis_url),
            postgres_linger_seconds=20,
            shutdown_grace_seconds=0,
        )
        async with open_app(settings, {}, clock=clock) as app:
            services = await app.services_provider.services()
            options = WebOptions(
                oauth=OAuth(resource=RESOURCE, services_provider=app.services_provider), token="x" * 20
            )
            pages = key_pages_mount(app.services_provider, ORIGIN)
            async with serve_app(
                mcp_application(create_server(app.services_provider, McpOptions()), options, pages)
            ) as served:
                ann = f"ann-{new_id().hex}"
                at = KeyPageSetup(services, served, issuer, http, ann, None)  # type: ignore[arg-type]  # set at once
                at.principal = await at.signed(ann)
                yield at


async def test_who_asked_signs_in_and_saves_a_key(
    edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_setup(edge_home, tmp_path) as at:
        link, browser = await at.link(), at.browser()
        page = await browser.open(link)
        assert (page.status_code, browser.place) == (200, f"{ORIGIN}/keys/enter")
        assert list(browser.cookies) == ["__Host-agentapi-keys"]
        saved = await browser.send(page, KEY)
        assert (saved.status_code, "The key is saved" in saved.text) == (200, True)
        assert await at.keys() == [KEY]
        assert browser.cookies == {}
        for answer in (page, saved):
            assert answer.headers["cache-control"] == "no-store"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "<script" not in answer.text
            assert KEY not in answer.text
    ours = [
        record for record in caplog.records if not record.name.startswith(("httpx2", "httpcore2"))
    ]  # the test's own
    logged = "\n".join(str(vars(record)) for record in ours)
    assert KEY not in logged
    assert link.partition("=")[2] not in logged


async def test_a_client_without_a_secret_signs_in_too(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path, "") as at:
        at.issuer.secret = None
        browser = at.browser()
        assert (await browser.send(await browser.open(await at.link()), KEY)).status_code == 200
        assert await at.keys() == [KEY]


async def test_a_link_alone_opens_nothing(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        link, thief = await at.link(), at.browser(f"eve-{new_id().hex}")
        refused = await thief.open(link)
        assert (refused.status_code, "somebody else" in refused.text) == (403, True)
        assert "<form" not in refused.text
        assert (await thief.step("/keys/enter")).status_code == 401
        assert (await thief.send(refused, KEY)).status_code == 401
        stranger = at.browser()
        for path in ("/keys/enter", "/keys/signed-in?code=x&state=y", "/keys/new", "/keys/new?request=x"):
            assert (await stranger.step(path)).status_code in {401, 404}
        assert await at.keys() == []


async def test_the_audit_log_says_who_came_to_the_page_and_from_where(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        link, eve = await at.link(), f"eve-{new_id().hex}"
        assert (await at.browser(eve).open(link)).status_code == 403
        browser = at.browser()
        await browser.send(await browser.open(link), KEY)
        for who, actions in ((at.principal, {"key_added", "sign_in"}), (await at.signed(eve), {"permission_denied"})):
            reader = replace(who, role=Role.OWNER, scopes=None)
            listed = (await at.services.audit.list_(reader, AuditFilter(user_id=who.user_id))).items
            found = {one.action: (one.via, one.address) for one in listed}
            for action in actions:
                assert found[action] == (at.issuer.issuer, "127.0.0.1")


async def test_a_link_is_used_once_and_a_wrong_key_does_not_use_it_up(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        link, browser, other = await at.link(), at.browser(), at.browser()
        page, second = await browser.open(link), await other.open(link)
        wrong = await browser.send(page, "no key <b>")
        assert (wrong.status_code, "This is no API key" in wrong.text, "<b>" in wrong.text) == (400, True, False)
        assert (await browser.send(wrong, KEY)).status_code == 200
        assert (await other.send(second, "sk-another-0123456789")).status_code == 404
        assert (await at.browser().open(link)).status_code == 404
        assert await at.keys() == [KEY]


async def test_a_reload_of_what_follows_the_form_sends_no_key(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        browser = at.browser()
        form, _ = forms_of(await browser.open(await at.link()))
        sent = await browser.submit(form, key=KEY)
        assert (sent.status_code, sent.headers["location"], KEY in sent.text) == (303, "/keys/enter", False)
        assert await at.keys() == [KEY]
        # All that the visit is good for now is to say so, once.
        assert (await browser.submit(form, key=KEY)).status_code == 401
        told = [("The key is saved" in (await browser.step("/keys/enter")).text) for _ in range(2)]
        assert told == [True, False]


async def test_a_link_that_is_too_old_is_none(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        link, browser = await at.link(), at.browser()
        page = await browser.open(link)
        await expire(edge_home)
        assert (await browser.send(page, KEY)).status_code == 404
        assert (await at.browser().open(link)).status_code == 404
        assert await at.keys() == []


async def test_a_form_from_elsewhere_is_not_taken(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        browser = at.browser()
        page = await browser.open(await at.link())
        for origin in ("https://evil.example", "null", ""):
            assert (await browser.send(page, KEY, origin=origin)).status_code == 403
        for token in ("", "x", "é"):
            assert (await browser.send(page, KEY, form_token=token)).status_code == 403
        large = await browser.send(page, "k" * 20_000)
        assert (large.status_code, "larger than 16,384 bytes" in large.text) == (413, True)
        assert (await at.http.get(f"{at.place.base}/keys/new", headers={"host": "evil.example"})).status_code == 421
        cookie = browser.cookies["__Host-agentapi-keys"]
        browser.cookies["__Host-agentapi-keys"] = cookie[:-8] + ("A" * 8)
        assert (await browser.send(page, KEY)).status_code == 401
        assert await at.keys() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "another"),
        ("iss", "https://evil.example"),
        ("token_status", 500),
        ("claims", {"aud": "https://another.example/mcp"}),
        ("claims", {"iss": "https://another.example"}),
        ("claims", {"exp": 1}),
        ("claims", {"client_id": "another-program"}),
        ("claims", {"sub": "agentapi-pages"}),
        ("claims", {"scope": "chat read"}),
    ],
)
async def test_a_sign_in_that_is_not_ours_lets_nobody_in(
    name: str, value: object, edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        setattr(at.issuer.lies, name, value)
        refused = await at.browser().open(await at.link())
        assert refused.status_code in {401, 403}
        assert "<form" not in refused.text
        assert "evil" not in refused.text


@pytest.mark.parametrize(
    ("promised", "status"),
    [(True, 401), (False, 200), (None, 200), ("true", 200)],
    ids=["yes", "no", "nothing", "text"],
)
async def test_an_answer_names_its_issuer_where_that_was_promised(
    promised: object, status: int, edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        at.issuer.lies = Lies(promises_iss=promised)
        assert (await at.browser().open(await at.link())).status_code == 200
        at.issuer.lies.leaves_iss_out = True
        assert (await at.browser().open(await at.link())).status_code == status
        at.issuer.lies.iss = "https://evil.example"
        at.issuer.lies.leaves_iss_out = False
        assert (await at.browser().open(await at.link())).status_code == 401


async def test_the_page_says_for_whom_the_key_is_kept(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        page = await at.browser().open(await at.link())
        assert f"<strong>{at.principal.user_id}</strong>" in page.text  # whose token brought no e-mail address
        who, where = at.principal.user_id, at.principal.org_id
        await execute(edge_home, "UPDATE public.profiles SET email = $1 WHERE id = $2", "ann@example.com", who)
        named = "A <b>\u202e & Co"
        await execute(edge_home, "UPDATE public.organizations SET name = $1 WHERE id = $2", named, where)
        page = await at.browser().open(await at.link())
        assert "<strong>ann@example.com</strong> in the organisation <strong>A &lt;b&gt; &amp; Co</strong>" in page.text


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:8765"])
async def test_browsers_are_told_to_come_over_https_alone(origin: str, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        pages = key_pages_mount(edge.server.parts.services_provider, origin)
        host = {"host": origin.partition("://")[2]}
        options = WebOptions(hosts=("agents.example.com",))
        async with (
            serve_app(mcp_application(edge.server, options, pages)) as place,
            httpx2.AsyncClient(base_url=place.base) as http,
        ):
            answers = [
                await http.get("/keys/new?request=x", headers=host),
                await http.get("/keys/signed-in", headers=host),
                await http.get("/keys/enter", headers={"host": "evil.example"}),
                await http.post("/keys/enter", headers=host, json={}),
            ]
    expected = "max-age=31536000" if origin.startswith("https") else None
    assert [answer.status_code for answer in answers] == [404, 404, 421, 415]
    assert [answer.headers.get("strict-transport-security") for answer in answers] == [expected] * 4


NOT_THERE = (
    ("GET", "/keys"),
    ("GET", "/keys/"),
    ("GET", "/keys/new/?request=x"),
    ("GET", "/keys/enter/"),
    ("GET", "/accounts//"),
    ("GET", "/accounts/connect/"),
    ("GET", "/accounts/callback/?code=x"),
    ("GET", "/accounts/nothing"),
    ("DELETE", "/accounts/"),
    ("PUT", "/keys/enter"),
    ("POST", "/accounts"),
    ("GET", "/accounts/sign-out"),
)


async def test_what_is_no_page_has_the_headers_of_one_and_leads_nowhere(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        pages = key_pages_mount(edge.server.parts.services_provider, ORIGIN)
        options = WebOptions(hosts=("agents.example.com",))
        async with (
            serve_app(mcp_application(edge.server, options, pages)) as place,
            httpx2.AsyncClient(base_url=place.base) as http,
        ):
            for method, path in NOT_THERE:
                headers = {"host": "agents.example.com", "origin": ORIGIN}
                headers |= {"content-type": "application/x-www-form-urlencoded"} if method != "GET" else {}
                answer = await http.request(method, path, headers=headers)
                is_there = path.partition("?")[0] in {"/accounts", "/accounts/", "/keys/enter", "/accounts/sign-out"}
                assert (path, answer.status_code) == (path, 405 if is_there else 404)
                assert "location" not in answer.headers
                assert answer.headers["content-type"] == "text/html; charset=utf-8"
                assert answer.headers["strict-transport-security"] == "max-age=31536000"
                assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["x-frame-options"] == "DENY"
                assert is_there == ("allow" in answer.headers)


async def test_only_who_came_through_such_an_issuer_is_asked(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        visits, authenticator = at.services.key_page_visits, at.services.authenticator
        assert authenticator is not None
        assert await visits.invite(at.principal, "openrouter") is not None
        assert await visits.invite(at.services.principal, "openrouter") is None
        assert not authenticator.can_log_in("https://another.example")
        assert await visits.invite(replace(at.principal, via="https://another.example"), "openrouter") is None


def test_the_secret_comes_from_the_environment_and_is_missed_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "agentapi.toml"
    file.write_text(
        '[[issuers]]\nissuer = "https://auth.example"\nclient_id = "c"\nclient_secret = "${OUR_SECRET}"\n', "utf-8"
    )
    (issuer,) = load_catalogue([file], {"OUR_SECRET": "s3cret"}, list).sign_in.issuers
    assert issuer.client_secret is not None
    assert issuer.client_secret.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(issuer)
    with pytest.raises(ConfigurationError, match="line 4: OUR_SECRET is not set, which 'client_secret' names"):
        load_catalogue([file], {}, list)


async def expire(home: Path) -> None:
    """Let all links be too old."""
    await execute(home, "UPDATE agentapi.key_requests SET expires_at = now() - interval '1 second'")


async def execute(home: Path, statement: str, *values: object) -> None:
    """Run a statement as the owner of the tables."""
    async with as_owner(home) as connection:
        await connection.execute(statement, *values)


async def number(home: Path, query: str, *values: object) -> int:
    """Return the number that a query asks for, as the owner of the tables."""
    async with as_owner(home) as connection:
        return int(str(await connection.fetchval(query, *values)))


@asynccontextmanager
async def as_owner(home: Path) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect as the owner of the tables."""
    async with AsyncExitStack() as stack:
        given = Settings(home=home).migrate_database_url
        if given is None:
            postgres = EmbeddedPostgres(home)
            stack.push_async_callback(asyncio.to_thread, postgres.release)
            url = (await asyncio.to_thread(postgres.ensure)).owner_url
        else:
            url = given.get_secret_value()
        connection = await asyncpg.connect(url)
        stack.push_async_callback(connection.close)
        yield connection
