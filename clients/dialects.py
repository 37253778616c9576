"""The four formats in which clients ask their model: what a request says, and how an answer is written."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

Json = dict[str, Any]
_USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered, as the model is told it."""

    name: str
    text: str


@dataclass(frozen=True)
class Request:
    """A request to the model, in no format: the names of its tools, and the results since the user's last message."""

    model: str
    tools: tuple[str, ...]
    results: tuple[ToolResult, ...]
    streams: bool


@dataclass(frozen=True)
class Answer:
    """A text, or a call of a tool."""

    text: str = ""
    tool: str = ""
    arguments: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Dialect:
    """Reads a request, and writes an answer whole or as a stream, whose events have a name or none, and data."""

    read: Callable[[Json], Request]
    whole: Callable[[Json, Answer], Json]
    stream: Callable[[Json, Answer], Iterator[tuple[str | None, Json | str]]]


def text_of(content: Any) -> str:  # noqa: ANN401  # whatever a client sends
    """Return the text in what a client sends as content."""
    match content:
        case str():
            return content
        case list():
            return "\n".join(map(text_of, cast("list[Any]", content)))
        case {"text": str(text)}:
            return text
        case {"content": inner} | {"output": inner} | {"result": inner}:
            return text_of(inner)
        case _:
            return json.dumps(content)


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:20]}"


def _read_chat(body: Json) -> Request:
    called: dict[str, str] = {}
    results: list[ToolResult] = []
    for message in body["messages"]:
        for call in message.get("tool_calls") or ():
            called[call["id"]] = call["function"]["name"]
        if message["role"] == "user":
            results.clear()
        elif message["role"] == "tool":
            results.append(ToolResult(called.get(message["tool_call_id"], ""), text_of(message["content"])))
    tools = tuple(tool["function"]["name"] for tool in body.get("tools") or ())
    return Request(body["model"], tools, tuple(results), bool(body.get("stream")))


def _chat_message(answer: Answer) -> Json:
    if not answer.tool:
        return {"role": "assistant", "content": answer.text}
    function = {"name": answer.tool, "arguments": json.dumps(answer.arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": 0, "id": _id("call"), "type": "function", "function": function}],
    }


def _chat_whole(body: Json, answer: Answer) -> Json:
    reason = "tool_calls" if answer.tool else "stop"
    choice = {"index": 0, "finish_reason": reason, "message": _chat_message(answer)}
    head = {"id": _id("chatcmpl"), "object": "chat.completion", "created": 1, "model": body["model"]}
    return {**head, "choices": [choice], "usage": _USAGE}


def _chat_stream(body: Json, answer: Answer) -> Iterator[tuple[str | None, Json | str]]:
    head = {"id": _id("chatcmpl"), "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    yield None, {**head, "choices": [{"index": 0, "delta": _chat_message(answer), "finish_reason": None}]}
    reason = "tool_calls" if answer.tool else "stop"
    yield None, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    yield None, {**head, "choices": [], "usage": _USAGE}
    yield None, "[DONE]"


def _read_messages(body: Json) -> Request:
    called: dict[str, str] = {}
    results: list[ToolResult] = []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found = [part for part in parts if part["type"] == "tool_result"]
        if message["role"] == "user" and not found:
            results.clear()
        called |= {part["id"]: part["name"] for part in parts if part["type"] == "tool_use"}
        results += [ToolResult(called.get(part["tool_use_id"], ""), text_of(part.get("content", ""))) for part in found]
    tools = tuple(tool["name"] for tool in body.get("tools") or ())
    return Request(body["model"], tools, tuple(results), bool(body.get("stream")))


def _messages_block(answer: Answer) -> Json:
    if answer.tool:
        return {"type": "tool_use", "id": _id("toolu"), "name": answer.tool, "input": answer.arguments}
    return {"type": "text", "text": answer.text}


def _messages_whole(body: Json, answer: Answer) -> Json:
    return {
        "id": _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "stop_sequence": None,
        "content": [_messages_block(answer)],
        "stop_reason": "tool_use" if answer.tool else "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }


def _messages_stream(body: Json, answer: Answer) -> Iterator[tuple[str | None, Json | str]]:
    whole = _messages_whole(body, answer)
    begin: Json = {**whole, "content": [], "stop_reason": None}
    block = _messages_block(answer)
    delta: Json = {"type": "text_delta", "text": answer.text}
    if answer.tool:
        delta = {"type": "input_json_delta", "partial_json": json.dumps(answer.arguments)}
    empty: Json = {**block, **({"input": {}} if answer.tool else {"text": ""})}
    events: list[Json] = [
        {"type": "message_start", "message": begin},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"]}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    yield from ((event["type"], event) for event in events)


def _read_responses(body: Json) -> Request:
    called: dict[str, str] = {}
    results: list[ToolResult] = []
    for item in body["input"]:
        match item.get("type"):
            case "function_call":
                called[item["call_id"]] = item["name"]
            case "function_call_output":
                results.append(ToolResult(called.get(item["call_id"], ""), text_of(item["output"])))
            case _ if item.get("role") == "user":
                results.clear()
            case _:
                pass
    return Request(body["model"], tuple(_responses_tools(body)), tuple(results), bool(body.get("stream")))


def _responses_tools(body: Json) -> Iterator[str]:
    """List the tools; those of a namespace as Codex names them, with it before them."""
    for tool in body.get("tools") or ():
        if tool.get("type") == "namespace":
            yield from (f"{tool['name']}/{inner['name']}" for inner in tool["tools"])
        elif "name" in tool:
            yield tool["name"]


def _responses_item(answer: Answer) -> Json:
    if not answer.tool:
        part: Json = {"type": "output_text", "text": answer.text, "annotations": []}
        return {"type": "message", "id": _id("msg"), "role": "assistant", "status": "completed", "content": [part]}
    namespace, _, name = answer.tool.rpartition("/")
    call = {"type": "function_call", "id": _id("fc"), "call_id": _id("call"), "name": name, "status": "completed"}
    return {**call, "arguments": json.dumps(answer.arguments), **({"namespace": namespace} if namespace else {})}


def _responses_whole(body: Json, answer: Answer) -> Json:
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": _id("resp"),
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body["model"],
        "output": [_responses_item(answer)],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12, **details},
    }


def _responses_stream(body: Json, answer: Answer) -> Iterator[tuple[str | None, Json | str]]:
    whole = _responses_whole(body, answer)
    item = whole["output"][0]
    events: list[Json] = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    yield from ((event["type"], event) for event in events)


def _read_gemini(body: Json) -> Request:
    results: list[ToolResult] = []
    for content in body.get("contents") or ():
        found = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        if content.get("role") == "user" and not found:
            results.clear()
        results += [ToolResult(each["name"], text_of(each["response"])) for each in found]
    declared = (each for tool in body.get("tools") or () for each in tool.get("functionDeclarations", ()))
    return Request("gemini", tuple(each["name"] for each in declared), tuple(results), streams=False)


def _gemini_whole(_body: Json, answer: Answer) -> Json:
    part: Json = {"text": answer.text}
    if answer.tool:
        part = {"functionCall": {"name": answer.tool, "args": answer.arguments}}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    candidate = {"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [part]}}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "fake"}


def _gemini_stream(body: Json, answer: Answer) -> Iterator[tuple[str | None, Json | str]]:
    yield None, _gemini_whole(body, answer)


CHAT_COMPLETIONS = Dialect(_read_chat, _chat_whole, _chat_stream)
MESSAGES = Dialect(_read_messages, _messages_whole, _messages_stream)
RESPONSES = Dialect(_read_responses, _responses_whole, _responses_stream)
GEMINI = Dialect(_read_gemini, _gemini_whole, _gemini_stream)
