"""What the requests of every HTTP backend share."""

import asyncio
import ssl
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from anyio.lowlevel import checkpoint
from typing_extensions import override

from agentapi_mcp.backends.wire.api import HttpApi, JsonRequest, bearer, measure, model_of
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.http import Body, Deadlines, HttpClient, HttpRequest
from agentapi_mcp.backends.wire.options import HttpOptions, read_options
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from agentapi_mcp.testing.peers import backend_turn
from tests.support.certificates import Pair
from tests.support.clocks import ManualClock
from tests.support.sockets import says, serving

FAULTS = FaultReader(provider="stub", redactor=Redactor())
OPERATORS = {"headers": {"X-Team": "blue", "X-Format": "ours"}}


class Server(HttpPeer):
    """Answers as its path says."""

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        if exchange.path == "/base/hang":
            await answer.hang()
        elif exchange.path == "/base/no":
            await answer.json(403, {"error": {"message": "No."}})
        elif exchange.path == "/base/away":
            await answer.text(302, "", headers={"location": "http://127.0.0.1:9/"})
        elif exchange.path == "/base/html":
            await answer.text(200, "<html>")
        elif exchange.path == "/base/flood":
            await answer.text(200, "x" * 300_000)
        else:
            await answer.json(200, {"a": 1})


@dataclass(frozen=True)
class ApiSetup:
    """The requests of a backend beside its server."""

    api: HttpApi
    server: Server

    async def post(self, path: str, body: dict[str, object], **headers: str) -> bytes:
        """Ask for a turn."""
        request = JsonRequest(path=path, body=body, headers=headers, streams=False)
        async with self.api.send(request, FAULTS) as reply:
            return await reply.body()


@asynccontextmanager
async def open_setup(**options: object) -> AsyncGenerator[ApiSetup]:
    async with FakeHost() as host, Server() as server:
        given = read_options(HttpOptions, {"base_url": f"{server.origin}/base/", **options})
        yield ApiSetup(HttpApi(given, host), server)


async def test_the_operators_headers_win_over_those_of_the_format() -> None:
    async with open_setup(**OPERATORS) as at:
        await at.post("/turn", {}, **{"x-format": "theirs", "x-other": "kept"})
        sent = at.server.exchanges[0].headers
    assert {"x-team": "blue", "x-format": "ours", "x-other": "kept"}.items() <= sent.items()
    assert sent["content-type"] == "application/json"


async def test_where_nobody_is_known_yet_nothing_of_the_operators_is_sent() -> None:
    async with open_setup(**OPERATORS) as at:
        await at.api.get("/", None, FAULTS)
        await at.api.get("/", {}, FAULTS)
        bare, usual = (exchange.headers for exchange in at.server.exchanges)
    assert "x-team" not in bare
    assert usual["x-team"] == "blue"


async def test_text_that_cannot_be_encoded_is_sent_with_a_mark_in_its_place() -> None:
    async with open_setup() as at:
        await at.post("/turn", {"said": "a\ud800é"})
        assert at.server.exchanges[0].json == {"said": "a?é"}


async def test_a_shorter_time_than_the_total_bounds_a_request() -> None:
    async with open_setup() as at:
        with pytest.raises(BackendError) as caught:
            await at.api.get("/hang", {}, FAULTS, within=timedelta(seconds=0.1))
    assert caught.value.fault is BackendFault.TIMEOUT_TOTAL


@pytest.mark.parametrize(
    ("path", "fault"),
    [("/no", BackendFault.PERMISSION), ("/away", BackendFault.BAD_REPLY), ("/html", BackendFault.BAD_REPLY)],
)
async def test_what_is_no_success_is_a_fault(path: str, fault: BackendFault) -> None:
    async with open_setup() as at:
        with pytest.raises(BackendError) as caught:
            await at.api.get(path, {}, FAULTS)
    assert caught.value.fault is fault


async def test_a_provider_that_floods_leaves_room_for_others_between_its_pieces() -> None:
    turns, is_over = 0, asyncio.Event()

    async def work_beside() -> None:
        nonlocal turns
        while not is_over.is_set():
            turns += 1
            await checkpoint()

    request = JsonRequest(path="/flood", body={}, headers={}, streams=False)
    async with open_setup() as at, asyncio.TaskGroup() as group, at.api.send(request, FAULTS) as reply:
        group.create_task(work_beside())
        pieces = [(len(piece), turns) async for piece in reply.chunks()]
        is_over.set()
    assert sum(length for length, _ in pieces) == 300_000
    assert max(length for length, _ in pieces) <= 4096
    assert all(before < after for (_, before), (_, after) in pairwise(pieces))


def test_a_turn_without_a_model_names_none() -> None:
    assert model_of(backend_turn(model_id="m")) == "m"
    with pytest.raises(BackendError) as caught:
        model_of(backend_turn(model_id=None))
    assert caught.value.fault is BackendFault.NOT_FOUND
    assert caught.value.unbilled


def test_without_a_key_there_is_no_header_for_it() -> None:
    assert bearer(None) == {}


async def test_a_check_is_timed_and_says_what_is_wrong() -> None:
    clock = ManualClock()

    async def well() -> None:
        clock.advance(timedelta(seconds=3))

    async def spent() -> str:
        return "Spent."

    async def busy() -> None:
        raise BackendError(BackendFault.RATE_LIMIT, "Busy.")

    statuses = {BackendFault.RATE_LIMIT: HealthStatus.DEGRADED}
    assert await measure(clock, well, {}) == HealthCheck(status=HealthStatus.HEALTHY, latency=timedelta(seconds=3))
    assert (await measure(clock, spent, {})).status is HealthStatus.UNHEALTHY
    advice = FAULT_ADVICE[BackendFault.RATE_LIMIT].next_step
    assert await measure(clock, busy, statuses) == HealthCheck(
        status=HealthStatus.DEGRADED, error="Busy.", fault=BackendFault.RATE_LIMIT, next_step=advice
    )
    assert (await measure(clock, busy, {})).status is HealthStatus.UNHEALTHY


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_request_goes_through_the_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeHost() as host, Server() as proxy:
        monkeypatch.setenv(variable, proxy.origin.removeprefix("http://"))
        given = read_options(HttpOptions, {"base_url": "http://provider.example:81/base/"})
        await HttpApi(given, host).get("/models", {}, FAULTS)
        assert proxy.exchanges[0].headers["host"] == "provider.example:81"
        assert proxy.exchanges[0].path == "http://provider.example:81/base/models"


async def test_a_request_to_a_host_of_no_proxy_goes_there_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with open_setup() as at:
        assert await at.api.get("/models", {}, FAULTS) == {"a": 1}
    monkeypatch.delenv("NO_PROXY")
    async with open_setup() as at:
        with pytest.raises(BackendError) as refused:
            await at.api.get("/models", {}, FAULTS)
    assert refused.value.fault is BackendFault.CONNECTION


async def test_the_authorities_of_an_agent_are_trusted_by_its_turns_and_checks(tmp_path: Path) -> None:
    chain, key = Pair.make().write(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain, key)
    answer = b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"a": 1}'
    async with FakeHost() as host, serving(says(answer), tls=tls) as peer:
        given = read_options(HttpOptions, {"base_url": peer.secure, "ca_file": str(chain)})
        api = HttpApi(given, host)
        assert await api.get("/models", {}, FAULTS) == {"a": 1}
        async with api.send(JsonRequest(path="/turn", body={}, headers={}, streams=True), FAULTS) as reply:
            assert await reply.body() == b'{"a": 1}'


async def test_a_body_is_let_go_when_it_is_sent_and_has_its_size_before_it() -> None:
    class Watched(bytearray):
        """A body of which it can be seen whether anybody still has it."""

    deadlines = Deadlines(connect=timedelta(seconds=20), idle=timedelta(seconds=20), total=timedelta(seconds=20))
    async with HttpClient() as client, Server() as server:
        whose: list[weakref.ref[Watched]] = []

        def make() -> bytes:
            content = Watched(b'"' + b"x" * 300_000 + b'"')
            whose.append(weakref.ref(content))
            return cast("bytes", content)

        request = HttpRequest(
            method="POST",
            url=f"{server.origin}/base/turn",
            headers={"content-type": "application/json"},
            deadlines=deadlines,
            content=Body(make),
        )
        async with client.exchange(request) as reply:
            assert reply.status == 200
            assert [each() for each in whose] == [None]
        sent = server.exchanges[0]
    assert (sent.headers["content-length"], len(sent.content)) == ("300002", 300_002)
    assert "transfer-encoding" not in sent.headers
