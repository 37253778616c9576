"""Real errors of real servers by their reason, and each word by which a reason is known."""

import pytest

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import BackendFault

FAULTS = FaultReader(provider="stub", redactor=Redactor())
OF_XAI = "The caller does not have permission to execute the specified operation"

# Status and body, as they were seen; who sends them is said beside each.
USED_UP: dict[str, tuple[int, object]] = {
    "xAI, without credit": (403, {"code": OF_XAI, "error": "Your newly created teams doesn't have any credits yet."}),
    "xAI, used up": (
        429,
        {
            "code": "Some resource has been exhausted",
            "error": "Your team has either used all available credits or reached its monthly spending limit.",
        },
    ),
    "Anthropic, a limit of one's own": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "You have reached your specified API usage limits. You will regain access on 2026-07-01.",
            },
        },
    ),
    "Anthropic, a long context": (
        429,
        {"error": {"type": "rate_limit_error", "message": "Extra usage is required for long context requests."}},
    ),
    "Moonshot": (
        429,
        {
            "error": {
                "message": "Your account is suspended, please check your plan and billing details",
                "type": "exceeded_current_quota_error",
            }
        },
    ),
    "SiliconFlow": (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    "Volcengine, its code": (403, {"error": {"code": "AccountOverdueError", "message": "?", "type": "Forbidden"}}),
    "Volcengine, its words": (403, {"error": {"message": "The request failed because of an overdue balance."}}),
    "Novita, its code": (403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "?", "metadata": {}}),
    "Novita, its words": (403, {"code": 403, "message": "not enough balance"}),
    "DashScope, its code": (403, {"error": {"code": "AllocationQuota.FreeTierOnly", "message": "?"}}),
    "DashScope, its words": (403, {"error": {"message": "The free tier of the model has been exhausted."}}),
    "Azure, without a price": (
        403,
        {"error": {"code": "QuotaExceeded", "message": "Out of call volume quota. It is replenished in 05:30:00"}},
    ),
    "Cohere, a trial": (
        429,
        {"message": "You are using a Trial key, which is limited to 1000 API calls / month. You can upgrade."},
    ),
}


@pytest.mark.parametrize("who", USED_UP)
def test_an_account_that_is_used_up_is_not_asked_again(who: str) -> None:
    status, body = USED_UP[who]
    read = FAULTS.of_reply(status, {"retry-after": "1"}, body)
    assert read.fault is BackendFault.PAYMENT
    assert not read.may_retry
    assert read.retry_after is None


@pytest.mark.parametrize(
    "said",
    [
        "You are using a Trial key, which is limited to 20 API calls / minute.",  # Cohere
        "Usage limit reached for 5 hour. Your limit will reset at 2026-10-05 20:13:34",  # Zhipu
        "You exceeded your current quota: 15 requests per minute.",  # Google
        "This request would exceed your account's rate limit. Please try again later.",  # Anthropic
    ],
)
def test_a_rate_that_is_used_up_passes(said: str) -> None:
    read = FAULTS.of_reply(429, {}, {"error": {"message": said}})
    assert read.fault is BackendFault.RATE_LIMIT
    assert read.may_retry


REASONS: dict[str, tuple[int, object, BackendFault]] = {
    "DeepSeek": (
        400,
        {"error": {"message": "Content Exists Risk", "type": "invalid_request_error", "code": "invalid_request_error"}},
        BackendFault.CONTENT_POLICY,
    ),
    "Kimi": (
        400,
        {"error": {"message": "The request was rejected because it was considered high risk"}},
        BackendFault.CONTENT_POLICY,
    ),
    "xAI": (403, {"code": OF_XAI, "error": "Content violates usage guidelines."}, BackendFault.CONTENT_POLICY),
    "Vertex": (
        400,
        {"error": {"message": "It violates the Generative AI Prohibited Use policy"}},
        BackendFault.CONTENT_POLICY,
    ),
    "StepFun": (451, {"error": {"message": "It is blocked."}}, BackendFault.CONTENT_POLICY),
    "StepFun in a stream": (
        200,
        {"error": {"message": "It is blocked.", "type": "censorship_blocked"}},
        BackendFault.CONTENT_POLICY,
    ),
    "Bedrock, no such model": (
        400,
        {"message": "The provided model identifier is invalid."},
        BackendFault.NOT_FOUND,
    ),
    "Bedrock, a profile": (
        400,
        {"message": "Invocation of model ID a.b with on-demand throughput isn\u2019t supported."},
        BackendFault.NOT_FOUND,
    ),
    "LM Studio, another path": (
        200,
        {"error": "Unexpected endpoint or method. (POST /chat/completions)"},
        BackendFault.NOT_FOUND,
    ),
    "Zhipu, its code": (400, {"error": {"code": "1211", "message": "?"}}, BackendFault.NOT_FOUND),
    "Zhipu, its words": (400, {"error": {"message": "模型不存在"}}, BackendFault.NOT_FOUND),
    "LiteLLM": (400, {"error": {"message": "litellm.ContextWindowExceededError: x"}}, BackendFault.CONTEXT_LENGTH),
    "Google, a place": (
        400,
        {"error": {"message": "User location is not supported for the API use.", "status": "FAILED_PRECONDITION"}},
        BackendFault.PERMISSION,
    ),
    "OpenAI, unverified": (
        400,
        {"error": {"message": "Your organization must be verified to stream this model.", "code": "unsupported_value"}},
        BackendFault.PERMISSION,
    ),
    "Anthropic, disabled": (
        400,
        {"error": {"message": "This organization has been disabled."}},
        BackendFault.PERMISSION,
    ),
    "Google, a key that others know": (
        403,
        {"error": {"message": "Your API key was reported as leaked.", "status": "PERMISSION_DENIED"}},
        BackendFault.AUTH,
    ),
}


@pytest.mark.parametrize("who", REASONS)
def test_a_real_error_is_known_by_its_reason(who: str) -> None:
    status, body, fault = REASONS[who]
    read = FAULTS.of_error(body) if status == 200 else FAULTS.of_reply(status, {}, body)
    assert read.fault is fault
    assert not read.may_retry


# Each alternative of the patterns, in words that hold no other one.
WORDS: dict[BackendFault, str] = {
    BackendFault.CONTENT_POLICY: "content-filter | content management policy | flagged as x | flagged by x"
    " | safety filter | safety policy | safety settings | usage guidelines | inappropriate words | unsafe information"
    " | sensitive content | harmful content | prohibited information",
    BackendFault.CONTEXT_LENGTH: "context size | context limit | contextwindow | inputs are too long"
    " | request too large | conversation too long | query too long"
    " | input too long | too many input tokens | too many prompt tokens"
    " | token count 9 only supports 8 | exceeds the available tokens | exceed the maximum tokens"
    " | exceeded the maximum tokens | exceeds the model token limit | exceed context token limit"
    " | exceeded input token limit | exceeded prompt token limit | exceeded maximum length | max input tokens"
    " | maximum sequence length | max model tokens | prompt length 9 exceeds 8 | inputs must be <= 8"
    " | inputs tokens + x must have less than 8 | reduce your prompt | reduce the input | reduce length of the message",
    BackendFault.AUTH: "wrong api key | expired auth token | missing access key | invalid authentication token"
    " | api key not found | api-key is invalid | api key expired | api_key missing | authentication failed",
    BackendFault.PAYMENT: "insufficient funds | insufficient credits | insufficient quota | spend limit reached"
    " | budget limit exceeded | credit limit was exceeded | billing limit has been reached | budget was exceeded"
    " | account is not active | account is in arrears | no credit | not have enough credits | no sufficient balance"
    " | balance is not enough | used all your credits | used all credits | reached your monthly budget limit"
    " | reached your credit limit | reached its usage limit | free quota is exhausted",
    BackendFault.NOT_FOUND: "the model is not available | model id x was not found | model does not exist"
    " | model has been retired | model is shut down | model was deprecated | model is unknown | invalid model x"
    " | unsupported model x | no such model | 404 not found | 404 not_found | model name `x` not supported",
    BackendFault.PERMISSION: "location is not supported | organization has been disabled",
    BackendFault.RATE_LIMIT: "ratelimit | rate-limit | throttling | quota exceeded",
}


@pytest.mark.parametrize(
    ("fault", "said"), [(fault, said) for fault, all_ in WORDS.items() for said in all_.split(" | ")]
)
def test_each_word_by_which_a_reason_is_known(fault: BackendFault, said: str) -> None:
    assert FAULTS.of_reply(400, {}, {"error": {"message": f"It says: {said}."}}).fault is fault


BUSY = (
    "at capacity | over capacity | high load | high traffic | engine is busy | service is currently unavailable"
    " | system is busy | model is unavailable"
)


@pytest.mark.parametrize("said", BUSY.split(" | "))
def test_each_word_by_which_a_busy_server_is_known(said: str) -> None:
    assert FAULTS.of_reply(500, {}, {"error": {"message": f"It says: {said}."}}).fault is BackendFault.OVERLOADED


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("Your API key was reported as leaked.", BackendFault.BAD_REQUEST),
        ("rate limit", BackendFault.RATE_LIMIT),
        ("You exceeded your current quota.", BackendFault.BAD_REQUEST),  # of which a rate alone can be told
        ("exceeds the maximum number of completion tokens", BackendFault.BAD_REQUEST),
    ],
)
def test_words_count_only_where_the_status_may_be_wrong(said: str, fault: BackendFault) -> None:
    assert FAULTS.of_reply(400, {}, {"error": {"message": said}}).fault is fault
    assert FAULTS.of_reply(401, {}, {"error": {"message": said}}).fault is BackendFault.AUTH
