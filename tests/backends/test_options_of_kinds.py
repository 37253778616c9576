"""Options that several kinds share mean the same in each: defaults from variables, and what a request leaves out."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.core.backends.models import BackendTurn, HistoryMessage, MessageRole
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.testing.contract import failure_of, open_rig
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.peers.cases import backend_turn, case_of
from tests.support.peers.messages import MessagesPeer
from tests.support.peers.openai import OpenAIPeer

KINDS = ("anthropic", "ccrouter", "openai")
MESSAGES = ("anthropic", "ccrouter")
TURN = replace(
    backend_turn("and now?"),
    system="Be brief.",
    temperature=0.5,
    history=(HistoryMessage(MessageRole.USER, "one"), HistoryMessage(MessageRole.ASSISTANT, "two")),
)


async def sent(kind: str, options: Mapping[str, object], turn: BackendTurn = TURN) -> dict[str, object]:
    """Run a turn, and return the body of its request."""
    peer = OpenAIPeer() if kind == "openai" else MessagesPeer()
    async with FakeHost() as host, peer:
        base = peer.origin + ("/v1" if kind == "openai" else "")
        backend = registry.create(kind, {"base_url": base, **options}, host)
        _ = [event async for event in backend.run(turn)]
        return peer.exchanges[-1].json


def roles(body: Mapping[str, object]) -> list[tuple[str, str]]:
    """List the messages of a request."""
    messages = cast("list[dict[str, str]]", body["messages"])
    return [(message["role"], message["content"]) for message in messages]


REST = [("assistant", "two"), ("user", "and now?")]


@pytest.mark.parametrize("kind", [kind for kind in registry.builtin_names() if kind != "guide"])
async def test_a_default_that_is_empty_leaves_an_option_out(kind: str) -> None:
    """Give each kind what `${KEY:-}` becomes."""
    case = case_of(kind)
    async with open_rig(case, case.variants[0]) as rig, FakeHost() as host:
        for name in ("api_key", "idle_timeout_seconds", "total_timeout_seconds"):
            _ = registry.create(kind, {**rig.options, name: ""}, host)
        assert rig.options


@pytest.mark.parametrize("kind", KINDS)
async def test_numbers_and_truths_may_come_from_variables(kind: str) -> None:
    body = await sent(kind, {"stream": "false", "idle_timeout_seconds": "30"})
    assert body["stream"] is False


@pytest.mark.parametrize("kind", KINDS)
async def test_a_parameter_that_a_model_refuses_is_left_out(kind: str) -> None:
    assert (await sent(kind, {}))["temperature"] == 0.5
    assert "temperature" not in await sent(kind, {"omit_parameters": ["temperature"]})
    async with FakeHost() as host:
        with pytest.raises(ConfigurationError, match="omit_parameters"):
            registry.create(kind, {"base_url": "http://127.0.0.1:9/v1", "omit_parameters": ["messages"]}, host)


@asynccontextmanager
async def refusing(kind: str, message: str, options: Mapping[str, object]) -> AsyncGenerator[Backend]:
    """Open a backend whose provider refuses every request with this message."""
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 400 Bad Request\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, FakeHost() as host:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield registry.create(kind, {"base_url": base, **options}, host)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("message", "option"),
    [
        ("'temperature' does not support 0.5 with this model.", 'omit_parameters = ["temperature"]'),
        ("invalid temperature: only 1 is allowed for this model", 'omit_parameters = ["temperature"]'),
        ("System role not supported", 'system_role = "user"'),
        ("'messages[0].role' does not support 'system' with this model.", 'system_role = "user"'),
        ("Developer instruction is not enabled for models/gemma-3", 'system_role = "user"'),
    ],
)
async def test_the_option_that_helps_is_named_where_a_model_refuses(kind: str, message: str, option: str) -> None:
    async with refusing(kind, message, {}) as backend:
        assert option in (await failure_of(backend, TURN)).next_step


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_other_name_of_the_longest_answer_is_the_one_to_set(name: str) -> None:
    is_old = name == "max_tokens"
    other = "max_completion_tokens" if is_old else "max_tokens"
    said = f"Use '{other}' instead." if is_old else f"{name}: Extra inputs are not permitted"
    async with refusing("openai", said, {"max_tokens_parameter": name}) as backend:
        assert f'max_tokens_parameter = "{other}"' in (await failure_of(backend, TURN)).next_step


@pytest.mark.parametrize("kind", KINDS)
async def test_the_instructions_may_be_folded_into_the_first_message(kind: str) -> None:
    body = await sent(kind, {"system_role": "user"})
    assert roles(body) == [("user", "Be brief.\n\none"), *REST]
    assert "system" not in body
    cut = replace(TURN, history=TURN.history[1:])
    (role, text), *rest = roles(await sent(kind, {"system_role": "user"}, cut))
    assert (role, rest) == ("user", REST)
    assert text.startswith("Be brief.\n\n")
    without = replace(TURN, system=None)
    assert roles(await sent(kind, {"system_role": "user"}, without)) == [("user", "one"), *REST]


async def test_the_instructions_may_be_the_developers() -> None:
    assert roles(await sent("openai", {"system_role": "developer"}))[0] == ("developer", "Be brief.")
    assert roles(await sent("openai", {}))[0] == ("system", "Be brief.")


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize(
    ("asked", "operators", "models", "expected"),
    [
        (None, None, None, 8192),
        (None, None, 4096, 4096),
        (None, None, 64_000, 64_000),
        (None, 9000, 64_000, 9000),
        (None, 9000, 4096, 4096),
        (None, 9000, None, 9000),
        (100, 9000, None, 100),
    ],
)
async def test_the_longest_answer_is_the_turns_or_the_operators_or_the_models(
    kind: str, asked: int | None, operators: int | None, models: int | None, expected: int
) -> None:
    options = {} if operators is None else {"max_tokens": operators}
    body = await sent(kind, options, replace(TURN, max_tokens=asked, max_output_tokens=models))
    assert body["max_tokens"] == expected


async def test_chat_completions_get_a_longest_answer_where_one_is_known() -> None:
    unknown, known = TURN, replace(TURN, max_output_tokens=4096)
    assert "max_tokens" not in await sent("openai", {}, unknown)
    assert (await sent("openai", {}, known))["max_tokens"] == 4096
    assert (await sent("openai", {"extra_body": {"max_tokens": 50}}, known))["max_tokens"] == 50
    assert (await sent("openai", {}, replace(known, max_tokens=7)))["max_tokens"] == 7
    renamed = await sent("openai", {"max_tokens_parameter": "max_completion_tokens"}, known)
    assert (renamed["max_completion_tokens"], "max_tokens" in renamed) == (4096, False)
    assert "max_tokens" not in await sent("openai", {"omit_parameters": ["max_tokens"]}, replace(known, max_tokens=7))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_address_that_was_pasted_with_its_endpoint_is_taken(kind: str) -> None:
    peer = OpenAIPeer() if kind == "openai" else MessagesPeer()
    async with FakeHost() as host, peer:
        path = "/v1/chat/completions" if kind == "openai" else "/v1/messages"
        backend = registry.create(kind, {"base_url": f"{peer.origin}{path}/"}, host)
        _ = [event async for event in backend.run(TURN)]
        assert [exchange.path for exchange in peer.exchanges] == [path]


async def test_the_messages_api_takes_keys_as_bearers_where_it_is_told_to() -> None:
    async with FakeHost() as host, MessagesPeer() as peer:
        options = {"base_url": peer.origin, "api_key": "sk-0123456789", "api_key_header": "Authorization"}
        _ = [event async for event in registry.create("anthropic", options, host).run(TURN)]
        headers = peer.exchanges[0].headers
    assert (headers["authorization"], "x-api-key" in headers) == ("Bearer sk-0123456789", False)
