"""The front answers byte for byte what the server answers, and leaves to the server whatever it does not know."""

import asyncio
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import ConfigurationError, StoreUnavailableError
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.front import answers
from agentapi_mcp.edges.mcp.front.answers import Front
from agentapi_mcp.settings import TOOLSETS, Settings, with_toolsets
from tests.support.databases import Seed
from tests.support.front_answers import (
    INITIALIZED,
    LISTS,
    MODERN_META,
    answers_file,
    combined,
    initialize,
    listen,
    modern,
    request,
    served,
)

META = "io.modelcontextprotocol/"
# What clients may declare, in full, and something that no revision knows.
CAPABILITIES: dict[str, object] = {
    "roots": {"listChanged": True},
    "sampling": {"context": {}, "tools": {}},
    "elicitation": {"form": {"applyDefaults": True}, "url": {}},
    "experimental": {"a": {"b": [1, None, 2.5e3]}},
    "extensions": {"io.modelcontextprotocol/tasks": {}, "io.modelcontextprotocol/ui": {"mimeTypes": ["text/html"]}},
    "tasks": {
        "list": {},
        "cancel": {},
        "requests": {"sampling": {"createMessage": {}}, "elicitation": {"create": {}}},
    },
    "tomorrows": [1],
}
CLIENT: dict[str, object] = {
    "name": "Cliént 😀",
    "version": "1",
    "title": None,
    "description": "x",
    "websiteUrl": "https://a.example",
    "more": 1,
}
IDS = (0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 10**30, "", "é-0", 'a"\\/\n\t\b\f\r\x01\x7f\u2028', "😀", "1")


class ClosedStores:
    """Stores that are not there."""

    def find(self) -> Services | None:
        """Return nothing."""
        return None

    async def services(self) -> Services:
        """Refuse."""
        raise StoreUnavailableError("The database is not up yet.")


def loaded(toolsets: str | None = None) -> Front:
    front = Front.load(toolsets)
    assert front is not None
    return front


async def both(lines: Sequence[bytes], toolsets: Sequence[str] = ("core",)) -> list[tuple[bytes | None, bytes]]:
    """Return what the front and the server answer to the requests of a client."""
    front, found = loaded(",".join(toolsets)), list[tuple[bytes | None, bytes]]()
    async with served(ClosedStores(), toolsets) as client:
        for line in lines:
            answer = front.answer(line)
            if b'"id"' not in line:
                await client.say(line)
                continue
            found.append((None if answer is None else answer.line, await client.ask(line)))
    return found


async def test_the_file_is_what_the_server_answers_to_a_user_without_sessions(seed: Seed) -> None:
    async with seed.started("mcp-") as server, open_app(Settings(home=server.home), {}) as app:
        expected = await answers_file(app.services_provider)
    is_current = (files("agentapi_mcp.edges.mcp.front") / "answers.json").read_text(encoding="utf-8") == expected
    assert is_current, "run `make front`, and look at what it changes"


@pytest.mark.parametrize("revision", [*KNOWN_PROTOCOL_VERSIONS, "1999-01-01", "", "tomorrow"])
async def test_every_revision_with_a_handshake_gets_the_servers_answers(revision: str) -> None:
    full: dict[str, object] = {"capabilities": CAPABILITIES, "clientInfo": CLIENT, "_meta": {"progressToken": 0}}
    lines = [
        initialize(revision, "é-0", **full),
        INITIALIZED,
        *(request(method, params) for method in LISTS for params in (None, {}, {"_meta": {"progressToken": "a"}})),
        request("ping"),
    ]
    for answer, expected in await both(lines):
        assert answer == expected


async def test_the_modern_revision_gets_the_servers_answers() -> None:
    full: dict[str, object] = {
        f"{META}clientCapabilities": CAPABILITIES,
        f"{META}clientInfo": CLIENT,
        "progressToken": 3,
    }
    for methods in (("server/discover", *LISTS), LISTS):
        for answer, expected in await both([modern(method, number, **full) for number, method in enumerate(methods)]):
            assert answer == expected


@pytest.mark.parametrize("toolsets", combined(), ids="+".join)
async def test_every_combination_of_toolsets_has_its_tools(toolsets: tuple[str, ...]) -> None:
    for lines in ([initialize(), request("tools/list")], [modern("tools/list")]):
        for answer, expected in await both(lines, toolsets):
            assert answer == expected


@pytest.mark.parametrize("key", IDS, ids=repr)
async def test_an_id_is_sent_back_as_the_server_does(key: object) -> None:
    for lines in ([initialize(key=key), request("ping", key=key)], [modern("tools/list", key)]):
        for answer, expected in await both(lines):
            assert answer == expected


async def test_an_id_is_sent_back_as_the_server_does_however_it_was_written() -> None:
    for text in ('"\\u00e9\\n\\/\\u0041"', "-0", "007", "1.0", "1e2", "true", "null", "[1]", '"\\ud83d\\ude00"'):
        line = b'{"jsonrpc":"2.0","id":' + text.encode() + b',"method":"ping"}\n'
        front = loaded()
        assert front.answer(initialize()) is not None
        answer = front.answer(line)
        if answer is not None:
            assert text in {'"\\u00e9\\n\\/\\u0041"', "-0"}
            assert answer.line == (await both([initialize(), line]))[1][1]


def test_the_first_request_is_forwarded_and_no_other() -> None:
    for lines in ([initialize(), *map(request, LISTS)], [modern(method) for method in LISTS]):
        front = loaded()
        answered = [front.answer(line) for line in lines]
        assert [answer is not None and answer.forwarded for answer in answered] == [True] + [False] * (len(lines) - 1)


def test_the_resources_are_listed_once_and_the_client_is_owed_a_change() -> None:
    front = loaded()
    assert front.answer(initialize()) is not None
    assert front.answer(request("resources/list")) is None  # it may not be told of a change before it is initialized
    assert front.answer(INITIALIZED) is None
    answer = front.answer(request("resources/list"))
    assert answer is not None
    assert answer.changed
    assert not answer.forwarded
    assert front.answer(request("resources/list")) is None
    tools = front.answer(request("tools/list"))
    assert tools is not None
    assert not tools.changed


def test_the_modern_revision_waits_for_its_resources() -> None:
    front = loaded()
    assert front.answer(modern("server/discover")) is not None
    assert front.answer(modern("resources/list")) is None
    assert front.answer(modern("tools/list")) is not None


@pytest.mark.parametrize("filters", [{"toolsListChanged": True}, {"resourcesListChanged": False}, {"taskIds": []}])
def test_only_a_subscription_to_the_resources_is_acknowledged(filters: dict[str, object]) -> None:
    front = loaded()
    assert front.answer(modern("server/discover")) is not None
    assert front.answer(listen(1, **filters)) is None
    assert front.answer(listen(2, resourcesListChanged=True, more=1)) is None
    more = {"_meta": MODERN_META, "notifications": {"resourcesListChanged": True}, "more": 1}
    assert front.answer(request("subscriptions/listen", more)) is None
    assert front.answer(modern("resources/list")) is None
    assert front.answer(listen(3)) is not None
    assert front.answer(listen(4)) is None


async def test_a_subscription_is_acknowledged_as_by_the_server_and_the_resources_are_listed(seed: Seed) -> None:
    async with seed.started("mcp-") as server, open_app(Settings(home=server.home), {}) as app:
        for key in (*IDS, "listen:0"):
            async with served(app.services_provider) as client:
                front = loaded()
                discover = front.answer(modern("server/discover"))
                assert discover is not None
                assert discover.line == await client.ask(modern("server/discover"))
                answer = front.answer(listen(key))
                assert answer is not None
                await client.say(listen(key))
                assert answer.line == await client.hear()
                told = json.loads(answer.instead)
                assert told["method"] == "notifications/resources/list_changed"
                assert told["params"]["_meta"] == json.loads(answer.line)["params"]["_meta"]
                resources = front.answer(modern("resources/list", 2))
                assert resources is not None
                assert resources.line == await client.ask(modern("resources/list", 2))
                assert front.answer(modern("resources/list", 3)) is None


def test_a_modern_connection_may_be_opened_by_a_request_that_waits() -> None:
    for opening in (modern("resources/list"), request("tools/call", {"name": "x", "_meta": MODERN_META})):
        front = loaded()
        assert front.answer(opening) is None
        answer = front.answer(modern("tools/list"))
        assert answer is not None
        assert not answer.forwarded
        assert front.answer(initialize()) is None


WAITING = {
    "a cursor": request("tools/list", {"cursor": "x"}),
    "no cursor": request("tools/list", {"cursor": None}),
    "more parameters": request("tools/list", {"a": 1}),
    "parameters that are none": request("tools/list", []),
    "null for parameters": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}\n',
    "null for _meta": request("tools/list", {"_meta": None}),
    "more in _meta": request("tools/list", {"_meta": {"a": 1}}),
    "a token of no kind": request("tools/list", {"_meta": {"progressToken": 1.5}}),
    "a token that is true": request("tools/list", {"_meta": {"progressToken": True}}),
    "the envelope of the other era": modern("tools/list"),
    "a method of the other era": request("server/discover"),
    "a call": request("tools/call", {"name": "list_agents", "arguments": {}}),
    "an unknown method": request("tools/lists"),
    "another version of JSON-RPC": b'{"jsonrpc":"1.0","id":1,"method":"ping"}\n',
    "an id that is true": request("ping", key=True),
    "an id that is a fraction": request("ping", key=1.5),
    "no id": b'{"jsonrpc":"2.0","method":"ping"}\n',
    "more members": b'{"jsonrpc":"2.0","id":1,"method":"ping","more":1}\n',
}
CONFUSING = {
    "a second initialize": initialize("2024-11-05"),
    "no JSON": b"hello\n",
    "an empty line": b"\n",
    "a batch": b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]\n',
    "a name twice": b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}\n',
    "a name twice within": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1,"a":2}}\n',
    "no number": b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}\n',
    "half a character": b'{"jsonrpc":"2.0","id":"\\uD800","method":"ping"}\n',
    "no text": b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}\n',
    "a byte order mark": b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
    "UTF-16": request("ping").decode().encode("utf-16-le") + b"\n",
    "two lines to the server": b'{"jsonrpc":"2.0","id":1,\r"method":"ping"}\n',
    "a long line": b'{"jsonrpc":"2.0","id":1,"method":"ping"' + b" " * 20_000 + b"}\n",
    "a long number": b'{"jsonrpc":"2.0","id":' + b"1" * 101 + b',"method":"ping"}\n',
    "a deep line": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":' + b"[" * 70 + b"]" * 70 + b"}}\n",
}


@pytest.mark.parametrize("line", WAITING.values(), ids=WAITING.keys())
def test_what_the_front_does_not_know_waits_for_the_server_alone(line: bytes) -> None:
    front = loaded()
    assert front.answer(initialize()) is not None
    assert front.answer(line) is None
    assert front.answer(request("tools/list")) is not None


@pytest.mark.parametrize("line", CONFUSING.values(), ids=CONFUSING.keys())
def test_everything_waits_behind_a_line_that_the_server_may_read_in_another_way(line: bytes) -> None:
    front = loaded()
    assert front.answer(initialize()) is not None
    assert front.answer(line) is None
    assert front.answer(request("tools/list")) is None


OPENINGS = {CONFUSING["a second initialize"], WAITING["the envelope of the other era"]}
EARLY = [line for line in (*WAITING.values(), *CONFUSING.values(), INITIALIZED) if line not in OPENINGS]


@pytest.mark.parametrize("line", EARLY)
def test_everything_waits_behind_what_is_said_before_the_handshake(line: bytes) -> None:
    front = loaded()
    assert front.answer(line) is None
    assert front.answer(initialize()) is None


def test_a_line_ends_as_the_client_ends_it() -> None:
    for end in (b"", b"\n", b"\r\n"):
        front = loaded()
        assert front.answer(initialize().rstrip() + end) is not None


@pytest.mark.parametrize("meta", ["protocolVersion", "clientCapabilities"])
def test_half_an_envelope_waits(meta: str) -> None:
    given = {name: value for name, value in MODERN_META.items() if name != f"{META}{meta}"}
    assert loaded().answer(request("tools/list", {"_meta": given})) is None


NAMES = st.sampled_from(
    [*CAPABILITIES, *CLIENT, "listChanged", "context", "tools", "form", "url", "list_changed", "icons", "src", "sizes"]
)
VALUES: st.SearchStrategy[object] = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -0.5, "yes", "true", "", "é"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


@settings(max_examples=60, deadline=None)
@given(capabilities=OBJECTS, client=OBJECTS, replaced=st.dictionaries(NAMES, VALUES, max_size=1))
def test_whatever_a_client_declares_is_answered_alike_or_left_to_the_server(
    capabilities: dict[str, object], client: dict[str, object], replaced: dict[str, object]
) -> None:
    given_client = {"name": "c", "version": "1", **client}
    for line in (
        initialize(capabilities=capabilities, clientInfo=given_client, **replaced),
        modern("tools/list", **{f"{META}clientCapabilities": capabilities, f"{META}clientInfo": given_client}),
    ):
        if loaded().answer(line) is None:
            continue
        ((answer, expected),) = asyncio.run(both([line]))
        assert answer == expected


@pytest.mark.parametrize(
    "toolsets", [None, "core", " admin , core,,", "core,core", "preferences,admin", "", ",", "Core", "core;admin", "x"]
)
def test_toolsets_are_read_as_the_settings_read_them(toolsets: str | None) -> None:
    front = Front.load(toolsets)
    try:
        chosen = with_toolsets(Settings(), toolsets).toolsets
    except ConfigurationError:
        assert front is None
        return
    assert front is not None
    assert front.answer(initialize()) is not None
    answer = front.answer(request("tools/list"))
    assert answer is not None
    known = loaded(",".join(name for name in TOOLSETS if name in chosen))
    assert known.answer(initialize()) is not None
    expected = known.answer(request("tools/list"))
    assert expected is not None
    assert answer.line == expected.line


def damaged() -> dict[str, bytes]:
    whole = Path(answers.FILE).read_bytes()
    content = json.loads(whole)
    return {
        "of another version": json.dumps(content | {"version": "0.0.9"}).encode(),
        "cut off": whole[:-20],
        "empty": b"",
        "no JSON": b"hello",
        "no object": b"[]",
        "no text": b"\xff" * 20,
        "changed": whole.replace(b"Send a message", b"Burn a message"),
        "with another checksum": json.dumps(content | {"checksum": content["checksum"] + 1}).encode(),
        "without answers": json.dumps({"version": content["version"]}).encode(),
        "nested too deeply": b"[" * 100_000,
    }


@pytest.mark.parametrize("content", damaged().values(), ids=damaged().keys())
def test_a_file_that_lies_is_as_none(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "answers.json"
    monkeypatch.setattr(answers, "FILE", str(file))
    assert Front.load(None) is None  # there is none
    file.write_bytes(content)
    assert Front.load(None) is None


def test_the_revisions_are_those_of_the_sdk() -> None:
    content = json.loads(Path(answers.FILE).read_bytes())
    assert list(content["answers"]["initialize"]) == list(HANDSHAKE_PROTOCOL_VERSIONS)
