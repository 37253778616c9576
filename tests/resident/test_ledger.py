"""What a bridge remembers of its client's requests when the server behind it ends."""

import json

import pytest

from agentapi_mcp.edges.mcp.tools.registry import find_tools
from agentapi_mcp.resident.ledger import READING_TOOLS, Ledger
from agentapi_mcp.settings import TOOLSETS

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


def line(method: str, params: object = None, number: str | int | None = None) -> bytes:
    fields = {"jsonrpc": "2.0", "method": method} | ({} if number is None else {"id": number})
    return json.dumps(fields | ({} if params is None else {"params": params})).encode() + b"\n"


def call(tool: str, number: str | int, **arguments: object) -> bytes:
    return line("tools/call", {"name": tool, "arguments": arguments}, number)


def answer(number: str | int, kind: str = "result") -> bytes:
    text = json.dumps(number, ensure_ascii=False)
    return f'{{"jsonrpc":"2.0","id":{text},"{kind}":{{}}}}'.encode()


def begun(*lines: bytes) -> Ledger:
    """Return the ledger of a conversation that has begun, and in which these were sent."""
    ledger = Ledger()
    ledger.sent(line("initialize", HELLO, 0))
    ledger.sent(line("notifications/initialized"))
    assert ledger.passes(answer(0))
    for each in lines:
        ledger.sent(each)
    return ledger


def test_the_tools_that_only_read_are_those_that_say_so() -> None:
    specs = [tool.spec for tool in find_tools(TOOLSETS)]
    reading = {spec.name for spec in specs if spec.reads_only}
    assert reading == READING_TOOLS


@pytest.mark.parametrize("number", [7, "7", "é-0", 'a"b', -3], ids=repr)
@pytest.mark.parametrize("kind", ["result", "error"])
def test_an_answered_request_is_closed_by_its_id(number: str | int, kind: str) -> None:
    ledger = begun(call("chat", number), call("chat", "other"))
    assert ledger.passes(answer(number, kind))
    assert [each.id for each in ledger.lost(None, was_stopped=False)] == ["other"]


def test_an_id_is_not_one_of_another_type() -> None:
    ledger = begun(call("chat", 1))
    assert ledger.passes(answer("1"))
    assert [each.id for each in ledger.lost(None, was_stopped=False)] == [1]


def test_what_the_server_asks_closes_nothing() -> None:
    ledger = begun(call("chat", 1))
    assert ledger.passes(b'{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}')
    assert [each.id for each in ledger.lost(None, was_stopped=False)] == [1]


def test_after_a_crash_only_what_changes_nothing_is_asked_again() -> None:
    reads, keyed = call("get_turn", 1), call("chat", 2, idempotency_key="k")
    polls, ends = line("tasks/get", {"taskId": "t"}, 6), line("tasks/cancel", {"taskId": "t"}, 7)
    ledger = begun(reads, keyed, call("chat", 3), call("cancel_turn", 4), line("tools/list", {}, 5), polls, ends)
    assert [each.id for each in ledger.lost(None, was_stopped=False)] == [3, 4, 7]
    assert ledger.restart()[2:] == [reads, keyed, line("tools/list", {}, 5), polls]


def test_a_new_server_hears_how_the_conversation_began_and_its_client_does_not_hear_that_again() -> None:
    subscribed, other = line("resources/subscribe", {"uri": "a:1"}, 1), line("resources/subscribe", {"uri": "a:2"}, 2)
    ledger = begun(subscribed, other, line("resources/unsubscribe", {"uri": "a:2"}, 3))
    for number in (1, 2, 3):
        assert ledger.passes(answer(number))
    assert ledger.restart() == [line("initialize", HELLO, 0), line("notifications/initialized"), subscribed]
    assert [ledger.passes(answer(number)) for number in (0, 1)] == [False, False]
    assert ledger.passes(answer(1))  # once


def test_a_conversation_that_was_beginning_hears_the_new_servers_answer() -> None:
    ledger = Ledger()
    ledger.sent(line("initialize", HELLO, 0))
    assert ledger.lost(None, was_stopped=False) == []
    assert ledger.restart() == [line("initialize", HELLO, 0)]
    assert ledger.passes(answer(0))


def test_a_request_that_was_answered_already_is_not_answered_twice() -> None:
    ledger = Ledger()
    hello = line("initialize", HELLO, "é")
    ledger.sent(hello)
    ledger.swallow(hello)
    assert not ledger.passes(answer("é"))


def test_what_a_server_that_left_did_not_read_goes_to_the_next() -> None:
    ledger = begun(call("chat", 1), call("chat", 2))  # the third and the fourth line
    assert [each.id for each in ledger.lost(3, was_stopped=True)] == [1]
    assert ledger.has_unread(3)
    assert ledger.restart()[2:] == [call("chat", 2)]


def test_a_server_that_was_stopped_is_not_started_for_what_it_had_read() -> None:
    listen = line("subscriptions/listen", {"notifications": {}}, 9)
    ledger = begun(call("get_turn", 1), listen)
    assert [each.id for each in ledger.lost(4, was_stopped=True)] == [1]
    assert not ledger.has_unread(4)
    assert ledger.restart()[2:] == [listen]


def test_a_stream_that_is_opened_again_is_acknowledged_once() -> None:
    told = (
        b'{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":'
        b'{"_meta":{"io.modelcontextprotocol/subscriptionId":9},"notifications":{}}}'
    )
    ledger = begun(line("subscriptions/listen", {"notifications": {}}, 9))
    assert ledger.passes(told)
    assert ledger.lost(None, was_stopped=False) == []
    ledger.restart()
    assert not ledger.passes(told)
    assert ledger.passes(told)


def test_a_cancelled_request_has_no_answer() -> None:
    ledger = begun(call("chat", 1), line("notifications/cancelled", {"requestId": 1}))
    assert ledger.refuse_all() == []


@pytest.mark.parametrize(
    ("line", "answered"),
    [
        (b'{"id":1,"method":"tools/call","params":{"name":"caf\xe9"}}\n', 1),
        (b'{"id":"caf\xe9","method":"tools/call"}\n', "caf\ufffd"),
        (rb'{"id":"\ud800x","method":"tools/call"}', "?x"),
    ],
)
def test_a_request_is_remembered_as_the_server_reads_it(line: bytes, answered: str | int) -> None:
    assert [each.id for each in begun(line).refuse_all()] == [answered]
    ledger = begun(line)
    assert ledger.passes(answer(answered))
    assert ledger.refuse_all() == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_the_server_cannot_read_is_not_remembered(encoding: str) -> None:
    assert begun(call("chat", 1).decode().encode(encoding)).refuse_all() == []


@pytest.mark.parametrize("text", [b"nonsense\n", b"[1]\n", b'{"id":true,"method":"ping"}\n', b'{"method":5,"id":1}\n'])
def test_what_is_no_request_is_not_remembered(text: bytes) -> None:
    assert begun(text).refuse_all() == []


def test_a_line_that_asks_for_something_is_told_from_one_that_does_not() -> None:
    ledger = Ledger()
    assert ledger.is_request(call("chat", 1))
    assert not ledger.is_request(line("notifications/initialized"))
    assert not ledger.is_request(answer(1))


def test_a_client_that_has_been_answered_already_waits_for_nothing() -> None:
    ledger = Ledger()
    hello = line("initialize", HELLO, 0)
    ledger.swallow(hello)
    ledger.sent(hello)
    assert not ledger.is_awaited()
    ledger.sent(call("list_agents", 1))
    assert ledger.is_awaited()
    assert ledger.passes(answer(1))
    assert not ledger.is_awaited()
