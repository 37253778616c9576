"""A stranger without a terminal: real servers, of which the next step of the page reaches another one each time."""

import base64
import itertools
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes

import httpx2
import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult

from agentapi_mcp.base.ids import new_id
from tests.acceptance.test_processes import environ
from tests.acceptance.test_serve import Serving, serving
from tests.edges.mcp.test_own_keys import written
from tests.support.browsers import Browser
from tests.support.connect import call, fields_of
from tests.support.peers.authorizer import SECRET, AuthorizerPeer, described
from tests.support.peers.issuer import SigningKey
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
ORIGIN = "https://agents.example.com"
SIGNING = SigningKey("one")
KEY = f"sk-canary-{base64.b16encode(token_bytes(8)).decode()}"


async def enter(url: str, replicas: tuple[Serving, ...]) -> None:
    """Open the address, go where it leads, and enter the key, each time by another replica."""
    bases = itertools.cycle(replica.base for replica in replicas)
    async with httpx2.AsyncClient(timeout=20) as http:
        browser = Browser(http, ORIGIN, next(bases))
        page = await browser.step(url)
        while page.has_redirect_location:
            browser.base = next(bases)
            page = await browser.step(page.headers["location"])
        browser.base = next(bases)
        saved = await browser.send(page, KEY)
        assert (saved.status_code, "saved" in saved.text) == (200, True), saved.text


async def test_a_stranger_signs_in_brings_a_key_and_is_answered(edge_home: Path, tmp_path: Path) -> None:
    name, asked = f"a{str(new_id())[-10:]}", list[str]()
    async with AuthorizerPeer(SIGNING) as issuer, OpenAIPeer() as peer:
        issuer.subject = f"ann-{new_id().hex}"
        config = tmp_path / "agentapi.toml"
        rest = 'client_secret = "${PAGES_SECRET}"\n' + written(name, peer, ('api_key = "${NOT_SET_HERE}"',))
        config.write_text(described(issuer) + rest, encoding="utf-8")
        (tmp_path / "master").write_bytes(base64.b64encode(token_bytes(32)))
        env = environ(edge_home) | {
            "AGENTAPI_CONFIG": str(config),
            "AGENTAPI_RESOURCE_URL": f"{ORIGIN}/mcp",
            "AGENTAPI_MASTER_KEY_FILE": str(tmp_path / "master"),
            "AGENTAPI_LOG_LEVEL": "debug",
            "PAGES_SECRET": SECRET,
        }
        async with serving(env) as one, serving(env) as two:
            claims = {"iss": issuer.issuer, "sub": issuer.subject, "aud": f"{ORIGIN}/mcp", "scope": "chat read"}
            token = SIGNING.sign(claims | {"exp": datetime.now(UTC).timestamp() + 300})

            async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
                del context
                assert isinstance(params, ElicitRequestURLParams)
                asked.append(params.url)
                await enter(params.url, (one, two))
                return ElicitResult(action="accept")

            async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=20) as http:
                target = streamable_http_client(f"{one.base}/mcp", http_client=http)
                async with Client(target, elicitation_callback=answer) as ann:
                    turn = fields_of(await call(ann, "chat", agent=name, message="hello"))
            assert (await one.stop(), await two.stop()) == (0, 0)
        assert turn["status"] == "completed"
        assert peer.exchanges[-1].headers["authorization"] == f"Bearer {KEY}"
        said = "".join(one.stderr + two.stderr)
        assert "DEBUG" in said or "debug" in said
        for secret in (KEY, SECRET, token, asked[0].partition("=")[2]):
            assert secret not in said
