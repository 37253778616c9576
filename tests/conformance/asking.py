"""Tools that ask the client while it waits: in the old era by a request of ours, in the new one by an answer."""

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    GetPromptRequestParams,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
)

from agentapi_mcp.edges.mcp.callers import Context
from tests.conformance.content import answer, text

Json = dict[str, object]
Params = CallToolRequestParams | GetPromptRequestParams
_KEY = b"the fixtures' own key, which every replica has"


# --- the old era: the server sends a request, within the answer to the client's


def _related(context: Context) -> ServerMessageMetadata:
    return ServerMessageMetadata(related_request_id=context.request_id)


async def sampling(context: Context, params: CallToolRequestParams) -> CallToolResult:
    """Let the client's model answer."""
    prompt = str((params.arguments or {}).get("prompt"))
    asked = CreateMessageRequestParams(messages=[SamplingMessage(role="user", content=text(prompt))], max_tokens=100)
    said = await context.session.send_request(
        CreateMessageRequest(params=asked), CreateMessageResult, metadata=_related(context)
    )
    assert isinstance(said.content, TextContent)
    return answer(f"LLM response: {said.content.text}")


def eliciting(message: str | None, properties: Json, required: list[str]) -> Callable[..., Awaitable[CallToolResult]]:
    """Return a tool that asks the user for these."""

    async def elicit(context: Context, params: CallToolRequestParams) -> CallToolResult:
        schema: Json = {"type": "object", "properties": properties, "required": required}
        asked = ElicitRequestFormParams(
            message=message or str((params.arguments or {}).get("message")), requested_schema=schema
        )
        said = await context.session.send_request(ElicitRequest(params=asked), ElicitResult, metadata=_related(context))
        return answer(f"Elicitation completed: action={said.action}, content={json.dumps(said.content)}")

    return elicit


_CHOICES: Json = {"type": "string", "enum": ["option1", "option2", "option3"]}
_TITLED = [{"const": f"value{n}", "title": title} for n, title in ((1, "First"), (2, "Second"), (3, "Third"))]
TOOLS = {
    "test_sampling": sampling,
    "test_elicitation": eliciting(
        None,
        {"username": {"type": "string"}, "email": {"type": "string"}},
        ["username", "email"],
    ),
    "test_elicitation_sep1034_defaults": eliciting(
        "Who is it?",
        {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
        [],
    ),
    "test_elicitation_sep1330_enums": eliciting(
        "Which of them?",
        {
            "untitledSingle": _CHOICES,
            "titledSingle": {"type": "string", "oneOf": _TITLED},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
            "untitledMulti": {"type": "array", "items": _CHOICES},
            "titledMulti": {"type": "array", "items": {"anyOf": _TITLED}},
        },
        [],
    ),
}


# --- the new era: the server's answer says what it needs, and the client sends its request again


def form(message: str, name: str, kind: str = "string") -> Json:
    """Return a request for one thing."""
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def _sample(said: str, most: int) -> Json:
    message = {"role": "user", "content": {"type": "text", "text": said}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": most}}


_ROOTS: Json = {"method": "roots/list", "params": {}}
_NEEDED_CAPABILITY = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
_NAME = {"user_name": form("What is your name?", "name")}
_CAPITAL = {"capital_question": _sample("What is the capital of France?", 100)}
_CONFIRM = {"confirm": form("Please confirm", "ok", "boolean")}
_SEVERAL = {**_NAME, "greeting": _sample("Generate a greeting", 50), "client_roots": _ROOTS}
_STEPS = [
    {"step1": form("Step 1: What is your name?", "name")},
    {"step2": form("Step 2: What is your favorite color?", "color")},
]
# What each asks for in its rounds, and whether it hands the client a state to bring back.
ROUNDS: dict[str, tuple[list[dict[str, Json]], bool]] = {
    "test_input_required_result_elicitation": ([_NAME], False),
    "test_input_required_result_sampling": ([_CAPITAL], False),
    "test_input_required_result_list_roots": ([{"client_roots": _ROOTS}], False),
    "test_input_required_result_request_state": ([_CONFIRM], True),
    "test_input_required_result_multiple_inputs": ([_SEVERAL], True),
    "test_input_required_result_multi_round": (_STEPS, True),
    "test_input_required_result_tampered_state": ([_CONFIRM], True),
    "test_input_required_result_capabilities": ([{**_NAME, **_CAPITAL}], False),
    "test_input_required_result_prompt": ([{"user_context": form("What context should it use?", "context")}], False),
    "test_streaming_elicitation": ([_NAME], False),
}


def rounds(context: Context, params: Params) -> InputRequiredResult | str:
    """Ask for what is missing still, or tell all that the client said."""
    asked_for, has_state = ROUNDS[params.name]
    step = _opened(params.request_state) if has_state and params.request_state is not None else 0
    wire = cast("Mapping[str, Mapping[str, object]]", (context.params or {}).get("inputResponses") or {})
    asked = _allowed(context, asked_for[step])
    if any(not _fits(asked[key], wire.get(key)) for key in asked):
        return _required(asked, step if has_state else None)
    if step + 1 < len(asked_for):
        return _required(asked_for[step + 1], step + 1)
    return f"state-ok: {json.dumps({key: wire[key] for key in asked})}"


def _allowed(context: Context, asked: dict[str, Json]) -> dict[str, Json]:
    declared = context.session.client_capabilities
    able = set[str]() if declared is None else set(declared.model_dump(exclude_none=True))
    there = {key: each for key, each in asked.items() if _NEEDED_CAPABILITY[str(each["method"])] in able}
    return there or asked


def _fits(asked: Json, said: Mapping[str, object] | None) -> bool:
    kinds = {"elicitation/create": "action", "sampling/createMessage": "content", "roots/list": "roots"}
    return isinstance(said, Mapping) and kinds[str(asked["method"])] in said


def _required(asked: dict[str, Json], state: int | None) -> InputRequiredResult:
    result: Json = {"resultType": "input_required", "inputRequests": asked}
    return InputRequiredResult.model_validate(result if state is None else result | {"requestState": _sealed(state)})


def _sealed(step: int) -> str:
    return f"{step}.{hmac.digest(_KEY, str(step).encode(), 'sha256').hex()}"


def _opened(state: str) -> int:
    step = state.partition(".")[0]
    if not step.isdecimal() or not hmac.compare_digest(_sealed(int(step)), state):
        raise MCPError(INVALID_PARAMS, "This request state is not ours.")
    return int(step)
