"""A body that was read before the application asks for it."""

import pytest
from starlette.types import Message

from agentapi_mcp.web.requests import BODY, JsonBody, json_of

LEFT: Message = {"type": "http.disconnect"}


async def left() -> Message:
    return LEFT


async def test_a_body_is_received_once_and_then_let_go() -> None:
    body = JsonBody(b'{"a": [1]}')
    receive = body.replayed(left)
    assert await receive() == {"type": "http.request", "body": b'{"a": [1]}', "more_body": False}
    assert await receive() is LEFT
    with pytest.raises(ValueError, match="Expecting value"):  # there is nothing left to parse
        body.value()


async def test_a_parsed_body_is_the_same_for_all_and_can_still_be_received() -> None:
    body = JsonBody(b'{"a": [1]}')
    scope = {BODY: body}
    assert json_of(scope) == {"a": [1]}
    assert json_of(scope) is body.value()
    assert (await body.replayed(left)())["body"] == b'{"a": [1]}'
    assert json_of(scope) == {"a": [1]}


def test_a_request_without_a_body_holds_no_json() -> None:
    with pytest.raises(ValueError, match="no body of JSON"):
        json_of({})
