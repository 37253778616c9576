"""What is read of a request before the application sees it: its headers, and its body."""

import pytest
from starlette.types import Message

from agentapi_mcp.web.requests import BODY, Head, JsonBody, address_of, head_of, json_of

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


def test_of_a_header_that_comes_twice_the_first_counts_and_none_is_hidden() -> None:
    head = Head([(b"Host", b"a"), (b"x-one", b"1"), (b"HOST", b"b"), (b"x-one", b"2")])
    assert (head.first[b"host"], head.text(b"x-one")) == (b"a", "1")
    assert (head.all(b"host"), head.all(b"x-one"), head.all(b"x-two")) == ([b"a", b"b"], [b"1", b"2"], [])


def test_a_header_is_found_whatever_its_case_and_bytes() -> None:
    head = head_of(scope := {"headers": [(b"X-Name", b"J\xfcrgen")]})
    assert (head.text(b"x-name"), head.all(b"x-name"), head.text(b"x-none")) == ("J\u00fcrgen", [b"J\xfcrgen"], "")
    assert head_of(scope) is head


@pytest.mark.parametrize(
    ("client", "told"),
    [(("192.0.2.1", 1), "192.0.2.1"), (("a\x1b[31m\nb", 1), "a[31mb"), (("\n", 1), "unknown"), (None, None)],
)
def test_an_address_is_told_in_printable_characters(client: tuple[str, int] | None, told: str | None) -> None:
    assert address_of({"client": client}) == told
