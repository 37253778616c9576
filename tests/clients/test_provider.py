"""The model of a trial calls again where its client gave up on a call, as models do, and says how often that was."""

import json
from typing import Any

import httpx2
import pytest
from clients.provider import Call, Script, open_provider

RUNNING = '{"turn_id": "01a2288b-5753-7079-8f58-19d2a0fe6a38", "status": "running"}'
ENDED = RUNNING.replace("running", "completed")
GAVE_UP = "An error occurred while running the tool. Please try again."


async def call_after(base: str, told: list[tuple[str, str]]) -> str:
    """Return the tool that the model calls after these results of its calls, or nothing."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Do it."}]
    for number, (tool, text) in enumerate(told):
        function = {"name": tool, "arguments": "{}"}
        messages += [
            {"role": "assistant", "tool_calls": [{"id": str(number), "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": str(number), "content": text},
        ]
    tools = [{"type": "function", "function": {"name": name}} for name in ("chat", "get_turn")]
    async with httpx2.AsyncClient(base_url=base) as http:
        answer = await http.post("/v1/chat/completions", json={"model": "m", "messages": messages, "tools": tools})
    message = json.loads(answer.content)["choices"][0]["message"]
    return message["tool_calls"][0]["function"]["name"] if message.get("tool_calls") else ""


@pytest.mark.parametrize(
    ("told", "called", "lost"),
    [
        ([], "chat", 0),
        ([("chat", GAVE_UP)], "chat", 1),
        ([("chat", RUNNING)], "get_turn", 0),
        ([("chat", RUNNING), ("get_turn", GAVE_UP)], "get_turn", 1),
        ([("chat", GAVE_UP), ("chat", ENDED)], "", 1),
        ([("chat", GAVE_UP)] * 31, "", 31),
    ],
)
async def test_the_model_calls_again_where_its_client_gave_up(
    told: list[tuple[str, str]], called: str, lost: int
) -> None:
    async with open_provider(0) as provider:
        script = provider.script = Script([Call("chat", {})])
        assert await call_after(provider.base, told) == called
        assert (script.lost, script.done.is_set()) == (lost, told[-1:] == [("chat", ENDED)])


async def test_what_comes_before_a_call_is_done_once() -> None:
    times: list[int] = []

    async def note() -> None:
        times.append(1)

    async with open_provider(0) as provider:
        provider.script = Script([Call("chat", {}, before=note)])
        assert await call_after(provider.base, []) == "chat"
        assert await call_after(provider.base, [("chat", GAVE_UP)]) == "chat"
    assert times == [1]
