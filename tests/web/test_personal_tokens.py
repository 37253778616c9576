"""Personal tokens over HTTP: whom they let in, with how much, and until when; with and without other ways in."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from hypothesis import strategies as st
from typing_extensions import override

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.access.models import NewToken
from agentapi_mcp.core.access.personal_tokens import PREFIX
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.auth_rate_limit import AuthRateLimit
from agentapi_mcp.web.authentication import AcceptedTokens, TokenAuthenticator
from agentapi_mcp.web.oauth import OAuth
from agentapi_mcp.web.turnstile import Sender
from tests.edges.mcp.test_http import ACCEPT, begin, fault, message
from tests.support.clocks import ManualClock
from tests.support.connect import call, connect_with, fields_of, text_of
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.hostile import TEXTS, holds
from tests.web.test_oauth import OWN, RESOURCE

LINKS = ("http-2025", "http-2026", "sse-2025")
WAYS = {
    "open": WebOptions(),
    "asks": WebOptions(needs_token=True),
    "own token": WebOptions(token=OWN),
}


class MovedClock(SystemClock):
    """The machine's time, or later."""

    later = timedelta(0)

    @override
    def now(self) -> datetime:
        """Tell the time of day."""
        return super().now() + self.later


@dataclass
class ServerSetup:
    """A server, what it does, and time; `attempts` is that in which refused tokens are counted."""

    place: Served
    services: Services
    clock: MovedClock
    attempts: ManualClock

    async def token(self, *scopes: str, days: int = 90) -> NewToken:
        """Make a token of the machine's user."""
        return await self.services.personal_tokens.create(
            self.services.principal,
            new_id().hex,
            scopes=scopes or ("read", "chat", "edit"),
            expires_in=timedelta(days=days),
        )

    async def status(self, *tokens: str) -> int:
        """Tell how a request with these tokens is answered."""
        headers = [("accept", ACCEPT["accept"]), *(("authorization", f"Bearer {token}") for token in tokens)]
        async with httpx2.AsyncClient(timeout=25) as http:
            return (await http.post(self.place.mcp, json=message("ping"), headers=headers)).status_code


@asynccontextmanager
async def open_setup(
    home: Path, options: WebOptions | None = None, resource: str | None = None
) -> AsyncGenerator[ServerSetup]:
    settings = Settings(home=home, resource_url=resource, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    clock, attempts = MovedClock(), ManualClock()
    async with open_app(settings, {}, clock=clock) as app:
        services = await app.services_provider.services()
        if resource is not None:
            options = WebOptions(oauth=OAuth(resource=resource, services_provider=app.services_provider))
        edge = mcp_application(
            create_server(app.services_provider, McpOptions()), options or WebOptions(needs_token=True, clock=attempts)
        )
        async with serve_app(edge) as place:
            yield ServerSetup(place, services, clock, attempts)


@pytest.mark.parametrize("link", LINKS)
async def test_a_token_lets_its_owner_in_until_it_is_revoked(link: str, edge_home: Path) -> None:
    async with open_setup(edge_home) as at:
        made = await at.token()
        async with connect_with(at.place.base, made.secret, link) as client:
            turn = fields_of(await call(client, "chat", agent="guide", message="what is this program?"))
            assert turn["status"] == "completed"
        assert await at.status(made.secret) == 200
        await at.services.personal_tokens.revoke(at.services.principal, str(made.token.id))
        assert await at.status(made.secret) == 401


@pytest.mark.parametrize("link", LINKS)
async def test_a_token_that_may_only_read_cannot_chat(link: str, edge_home: Path) -> None:
    async with open_setup(edge_home) as at:
        made = await at.token("read")
        async with connect_with(at.place.base, made.secret, link) as client:
            assert not (await call(client, "list_sessions")).is_error
            if link.startswith("sse"):
                refused = await call(client, "chat", agent="guide", message="hello")
                assert "lacks the scope 'chat'" in text_of(refused)
        asked = message("tools/call", {"name": "chat", "arguments": {"agent": "guide", "message": "hello"}})
        headers = {"authorization": f"Bearer {made.secret}"}
        async with httpx2.AsyncClient(base_url=at.place.base, headers=headers, timeout=25) as http:
            refused = await http.post("/mcp", json=asked, headers=await begin(http))
            assert (refused.status_code, "'chat'" in fault(refused)) == (403, True)


async def test_a_token_ends_when_its_time_is_over(edge_home: Path) -> None:
    async with open_setup(edge_home) as at:
        made = await at.token(days=1)
        at.clock.later = timedelta(days=1) - timedelta(minutes=1)
        assert await at.status(made.secret) == 200
        at.clock.later = timedelta(days=1)
        assert await at.status(made.secret) == 401


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_is_asked_for_where_the_operator_wants_one_and_judged_everywhere(
    way: str, edge_home: Path
) -> None:
    async with open_setup(edge_home, WAYS[way]) as at:
        made, revoked = await at.token(), await at.token()
        await at.services.personal_tokens.revoke(at.services.principal, str(revoked.token.id))
        assert await at.status() == (200 if way == "open" else 401)
        assert await at.status("something") == (200 if way == "open" else 401)
        assert await at.status(OWN) == (401 if way == "asks" else 200)
        assert await at.status(made.secret) == 200
        for wrong in (revoked.secret, made.secret[:-1], made.secret + "0", PREFIX, f"x{made.secret}"):
            assert await at.status(wrong) == 401, wrong
        assert await at.status(made.secret, made.secret) == 400
        assert await at.status(OWN, revoked.secret) == 400


async def test_a_token_works_beside_sign_in_and_issuers_are_not_asked_about_it(edge_home: Path) -> None:
    async with open_setup(edge_home, resource=RESOURCE) as at:
        made = await at.token("read")
        assert await at.status(made.secret) == 200
        assert await at.status(made.secret[:-1]) == 401
        async with httpx2.AsyncClient(timeout=25) as http:
            headers = {"authorization": f"Bearer {made.secret[:-1]}"}
            refused = await http.post(at.place.mcp, json={}, headers=headers)
        assert 'resource_metadata="' in refused.headers["www-authenticate"]


async def test_nobody_posts_into_the_stream_of_whom_a_token_names(edge_home: Path) -> None:
    async with open_setup(edge_home, WebOptions()) as at, httpx2.AsyncClient(timeout=25) as http:
        one = {"authorization": f"Bearer {(await at.token()).secret}"}
        another = {"authorization": f"Bearer {(await at.token('read')).secret}"}
        async with http.stream("GET", at.place.sse, headers=one) as stream:
            lines = stream.aiter_lines()
            while not (line := await anext(lines)).startswith("data: "):
                pass
            ping = message("ping")
            statuses = [
                (await http.post(at.place.base + line.removeprefix("data: "), json=ping, headers=headers)).status_code
                for headers in ({}, one, another)
            ]
        assert statuses == [404, 202, 202]


async def test_any_text_that_is_sent_as_a_token_is_refused_in_our_words(edge_home: Path) -> None:
    async with open_setup(edge_home) as at, httpx2.AsyncClient(base_url=at.place.base, timeout=25) as http:
        secret = (await at.token()).secret
        bodies = TEXTS | st.from_regex(r"\A[0-9A-Za-z]{49}\Z")
        given = TEXTS | bodies.map(lambda body: PREFIX + body) | bodies.map(lambda body: f"{secret} {body}")

        async def check(token: str) -> None:
            at.attempts.advance(timedelta(minutes=1))
            raw = b"Bearer " + token.encode("utf-8", "surrogatepass")
            value = bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip()  # what a header can hold
            answer = await http.post("/mcp", json=message("ping"), headers=[(b"authorization", value)])
            is_one = value.decode("latin-1").partition(" ")[2].strip() == secret
            assert answer.status_code in ({200} if is_one else {400, 401}), answer.text
            assert secret not in answer.text

        also = [PREFIX + "0" * 49, PREFIX + "é" * 49, PREFIX * 1000, PREFIX + "\udcff", secret.replace("_", "-")]
        await holds(given, check, examples=150, also=also)


async def test_a_user_with_two_tokens_is_one_sender_and_so_is_whoever_makes_them_up(edge_home: Path) -> None:
    async with open_app(Settings(home=edge_home, postgres_linger_seconds=20), {}) as app:
        services = await app.services_provider.services()
        clock = SystemClock()
        authenticator = TokenAuthenticator(app.services_provider, AcceptedTokens(token=OWN), AuthRateLimit(clock))

        async def sender(token: str, address: str = "192.0.2.1", *, is_verified: bool = True) -> Sender:
            scope = {
                "type": "http",
                "headers": [(b"authorization", f"Bearer {token}".encode())],
                "query_string": b"",
                "client": (address, 1),
            }
            if is_verified:
                await authenticator.identify(scope)
            return authenticator.sender_of(scope)

        made = [await services.personal_tokens.create(services.principal, new_id().hex, scopes=("read",)) for _ in "ab"]
        before = await sender(made[0].secret, is_verified=False)
        first, second = [await sender(token.secret, f"192.0.2.{number}") for number, token in enumerate(made)]
        guesses = {await sender(PREFIX + digit * 30, is_verified=False) for digit in "abc"}
        assert first == second != before
        assert guesses == {before}
        assert await sender(OWN) not in {first, before}
        nobody = await sender("", "192.0.2.9", is_verified=False)
        assert nobody not in {first, before}
        assert [one.is_known for one in (first, before, nobody)] == [True, False, False]
