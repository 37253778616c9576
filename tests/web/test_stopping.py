"""A server that stops: what it still serves, what it refuses, and that no request is lost between the two."""

import asyncio
import json

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.testing.waiting import expect_soon
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.requests import BODY, JsonBody, json_of
from agentapi_mcp.web.stopping import Draining, Stopping, note_no_room

REFUSED = {"status": 503, "retry-after": "1", "connection": "close"}


class Served:
    """A mount that answers a request once the test lets it; each answer is what the client sees of it."""

    def __init__(self) -> None:
        self.stopping = Stopping()
        self.let_in = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.has_room = True
        mount = Mount(
            paths=("/",),
            app=self._serve,
            authentication=AuthenticationMode.OPEN,
            serves_while_stopping=lambda scope: (
                scope["method"] == "DELETE" or (scope["method"] == "POST" and json_of(scope) == "cancel")
            ),
        )
        self._draining = Draining(self._serve, mount, self.stopping)

    async def ask(self, method: str = "GET", body: bytes = b"") -> dict[str, object]:
        """Send a request, and return the status, the body and the headers that matter of its response."""
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        scope: Scope = {"type": "http", "method": method, "path": "/", "headers": [], BODY: JsonBody(body)}
        await self._draining(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        told = {name: headers[name] for name in ("retry-after", "connection") if name in headers}
        return {"status": messages[0]["status"], "said": messages[1]["body"], **told}

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.let_in.set()
        body = await Request(scope, receive).body()
        await self.may_answer.wait()
        if not self.has_room:
            note_no_room(scope)
        await PlainTextResponse(b"served " + body)(scope, receive, send)


def assert_refused(answer: dict[str, object]) -> None:
    """Check that a client is told to go to another replica."""
    said = answer.pop("said")
    assert isinstance(said, bytes)
    assert "shutting down" in json.loads(said)["error"]
    assert answer == REFUSED


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b'"chat"'), ("PUT", b'"cancel"')])
async def test_a_server_that_stops_refuses_new_requests(method: str, body: bytes) -> None:
    served = Served()
    served.may_answer.set()
    assert (await served.ask(method, body))["status"] == 200
    served.stopping.begin()
    assert_refused(await served.ask(method, body))


@pytest.mark.parametrize(("method", "body"), [("DELETE", b""), ("POST", b'"cancel"')])
async def test_what_concerns_work_in_progress_is_served_on_a_connection_that_closes(method: str, body: bytes) -> None:
    served = Served()
    served.may_answer.set()
    served.stopping.begin()
    assert await served.ask(method, body) == {"status": 200, "said": b"served " + body, "connection": "close"}


async def test_a_request_that_was_let_in_is_waited_for_and_answered() -> None:
    served = Served()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(served.ask("POST", b'"chat"'))
        await served.let_in.wait()
        served.stopping.begin()
        waiting = group.create_task(served.stopping.wait_answered())
        assert_refused(await served.ask())
        assert not waiting.done()
        served.may_answer.set()
        await expect_soon(waiting, "the request is answered")
    assert asked.result() == {"status": 200, "said": b'served "chat"', "connection": "close"}


async def test_a_response_that_has_begun_is_not_waited_for() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        await may_end.wait()
        await send({"type": "http.response.body", "body": b""})

    stopping, sent = Stopping(), list[str]()
    mount = Mount(paths=("/",), app=stream, authentication=AuthenticationMode.OPEN)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async with asyncio.TaskGroup() as group:
        group.create_task(Draining(stream, mount, stopping)({"type": "http", "method": "GET"}, receive, send))
        await begun.wait()
        stopping.begin()
        await expect_soon(stopping.wait_answered(), "the stream holds nobody up")
        stopping.give_up()  # it is for those without a response
        may_end.set()
    assert sent == ["http.response.start", "http.response.body"]


async def test_a_request_that_found_no_room_is_refused_only_by_a_server_that_stops() -> None:
    served = Served()
    served.has_room = False
    served.may_answer.set()
    assert (await served.ask())["status"] == 200  # the answer says what limit was reached
    served.may_answer.clear()
    served.let_in.clear()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(served.ask())
        await served.let_in.wait()
        served.stopping.begin()
        served.may_answer.set()
    assert_refused(asked.result())


async def test_what_is_not_answered_in_the_end_is_refused() -> None:
    served = Served()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(served.ask())
        await served.let_in.wait()
        served.stopping.begin()
        served.stopping.give_up()
    assert_refused(asked.result())
    await expect_soon(served.stopping.wait_answered(), "nothing is left")


async def test_a_request_that_somebody_else_cancels_is_not_answered() -> None:
    served = Served()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(served.ask())
        await served.let_in.wait()
        served.stopping.begin()
        served.stopping.give_up()
        asked.cancel()
    assert asked.cancelled()
    await expect_soon(served.stopping.wait_answered(), "nothing is left")
