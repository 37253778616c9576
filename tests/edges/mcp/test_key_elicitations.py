"""A chat that lacks only a key asks its user for one, by the address of a page, in both eras; nobody else."""

import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.client.session import ElicitationFnT
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult

from agentapi_mcp.base.ids import new_id
from tests.edges.key_pages.test_key_pages import KEY, ORIGIN, RESOURCE, SIGNING, KeyPageSetup, open_setup
from tests.edges.mcp.test_own_keys import written
from tests.support.connect import call, fields_of, text_of
from tests.support.peers.openai import OpenAIPeer

LACKS = ('api_key = "${NOT_SET_HERE}"',)


@asynccontextmanager
async def client(
    at: KeyPageSetup, link: str, answer: ElicitationFnT | None, subject: str | None = None, **more: object
) -> AsyncGenerator[Client]:
    """Connect as Ann, or as somebody else."""
    said: dict[str, object] = {"iss": at.issuer.issuer, "sub": subject or at.ann, "aud": RESOURCE, "scope": "chat read"}
    token = SIGNING.sign({**said, "exp": datetime.now(UTC).timestamp() + 300, **more})
    headers = {"authorization": f"Bearer {token}"}
    transport, era = link.split("-")
    async with httpx2.AsyncClient(headers=headers, timeout=25) as http:
        target = (
            streamable_http_client(at.place.mcp, http_client=http)
            if transport == "http"
            else sse_client(at.place.sse, headers=headers)
        )
        mode = "legacy" if era == "2025" else "auto"
        async with Client(target, mode=mode, elicitation_callback=answer) as connected:
            yield connected


async def enter(at: KeyPageSetup, asked: ElicitRequestParams) -> None:
    """Do what the person does."""
    assert isinstance(asked, ElicitRequestURLParams)
    assert asked.url.startswith(f"{ORIGIN}/keys/new?request=")
    browser = at.browser()
    assert (await browser.send(await browser.open(asked.url), KEY)).status_code == 200


@pytest.mark.parametrize("link", ["http-2025", "http-2026", "sse-2025", "sse-2026"])
async def test_a_chat_that_lacks_a_key_asks_for_it_and_then_succeeds(
    link: str, edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    name, addresses = f"a{str(new_id())[-10:]}", list[str]()
    async with OpenAIPeer() as peer, open_setup(edge_home, tmp_path, written(name, peer, LACKS)) as at:
        at.issuer.secret = None

        async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            del context
            assert isinstance(params, ElicitRequestURLParams)
            addresses.append(params.url)
            await enter(at, params)
            return ElicitResult(action="accept")

        async with client(at, link, answer) as ann:
            if link.endswith("2025"):
                with pytest.raises(MCPError) as refused:
                    await call(ann, "chat", agent=name, message="hello")
                (asked,) = UrlElicitationRequiredError.from_error(refused.value.error).elicitations
                assert asked.elicitation_id
                await answer(None, asked)  # type: ignore[arg-type]  # it is not looked at
            done = fields_of(await call(ann, "chat", agent=name, message="hello"))
        assert (done["status"], [step["key"] for step in done["route"]]) == ("completed", ["user"])  # type: ignore[union-attr, index]  # a list
        assert peer.exchanges[-1].headers["authorization"] == f"Bearer {KEY}"
        assert len(addresses) == 1
    ours = [
        each for each in caplog.records if not each.name.startswith(("httpx2", "httpcore2", "mcp.client", "client"))
    ]
    logged = "\n".join(str(vars(record)) for record in ours)
    assert KEY not in logged
    assert addresses[0].partition("=")[2] not in logged


@pytest.mark.parametrize("link", ["http-2025", "http-2026"])
async def test_a_client_that_opens_no_addresses_is_told_one_in_words(
    link: str, edge_home: Path, tmp_path: Path
) -> None:
    name = f"a{str(new_id())[-10:]}"
    async with (
        OpenAIPeer() as peer,
        open_setup(edge_home, tmp_path, written(name, peer, LACKS)) as at,
        client(at, link, None) as ann,
    ):
        at.issuer.secret = None
        refused = await call(ann, "chat", agent=name, message="hello")
        assert refused.is_error
        (address,) = re.findall(r"\S+/keys/new\?request=\S+", text_of(refused))
        await enter(at, ElicitRequestURLParams(message="", url=address, elicitation_id="x"))
        assert fields_of(await call(ann, "chat", agent=name, message="hello"))["status"] == "completed"


async def test_who_declines_is_asked_once_and_told_in_words(edge_home: Path, tmp_path: Path) -> None:
    name, times = f"a{str(new_id())[-10:]}", list[int]()

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context, params
        times.append(1)
        return ElicitResult(action="decline")

    async with OpenAIPeer() as peer, open_setup(edge_home, tmp_path, written(name, peer, LACKS)) as at:
        async with client(at, "http-2026", answer) as ann:
            refused = await call(ann, "chat", agent=name, message="hello")
        assert (refused.is_error, len(times)) == (True, 1)
        assert "NOT_SET_HERE is not set" in text_of(refused)


async def test_what_another_error_lacks_is_not_asked_for(edge_home: Path, tmp_path: Path) -> None:
    name = f"a{str(new_id())[-10:]}"

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError(context, params)

    async with OpenAIPeer() as peer:
        options = (*LACKS, 'app_title = "${NOR_THIS}"')
        config = written(name, peer, options)
        async with open_setup(edge_home, tmp_path, config) as at, client(at, "http-2026", answer) as ann:
            for agent in (name, "nobody"):
                assert (await call(ann, "chat", agent=agent, message="hello")).is_error
