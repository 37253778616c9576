"""Which fault it is: the provider's own words beat the status."""

import json
from datetime import timedelta

import pytest

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import BackendFault

FAULTS = FaultReader(provider="stub", redactor=Redactor())


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (500, {"error": {"metadata": {"error_type": "context_length_exceeded"}}}, BackendFault.CONTEXT_LENGTH),
        (502, {"error": {"metadata": {"error_type": "unmapped"}}}, BackendFault.UPSTREAM),
        (403, {"error": {"metadata": {"flagged_input": "…"}}}, BackendFault.CONTENT_POLICY),
        (429, {"error": {"code": "insufficient_quota"}}, BackendFault.PAYMENT),
        (401, {"error": {"type": "invalid_request_error", "code": None}}, BackendFault.AUTH),
        (400, {"error": {"message": "prompt is too long: 9 tokens"}}, BackendFault.CONTEXT_LENGTH),
        (400, {"error": "the input length exceeds the context length"}, BackendFault.CONTEXT_LENGTH),
        (400, {"object": "error", "message": "no", "code": 400}, BackendFault.BAD_REQUEST),
        (422, {"detail": "no"}, BackendFault.BAD_REQUEST),
        (404, {"error": {"message": "No endpoints found matching your data policy"}}, BackendFault.NOT_FOUND),
        (405, None, BackendFault.NOT_FOUND),
        (410, None, BackendFault.NOT_FOUND),
        (413, None, BackendFault.CONTEXT_LENGTH),
        (498, None, BackendFault.OVERLOADED),
        (499, None, BackendFault.UPSTREAM),
        (408, None, BackendFault.UPSTREAM),
        (418, ["?"], BackendFault.BAD_REQUEST),
        (504, [], BackendFault.UPSTREAM),
        (503, [{"error": {"status": "UNAVAILABLE"}}], BackendFault.OVERLOADED),
    ],
)
def test_a_refusal_is_told_as_its_fault(status: int, body: object, fault: BackendFault) -> None:
    error = FAULTS.of_reply(status, {}, body)
    assert error.fault is fault
    assert str(error).startswith("stub ")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"code": 429, "message": "no"}, BackendFault.RATE_LIMIT),
        ({"code": "402"}, BackendFault.PAYMENT),
        ({"code": "server_error"}, BackendFault.UPSTREAM),
        ({"code": "anything"}, BackendFault.UPSTREAM),
        ({"code": 3}, BackendFault.UPSTREAM),  # a number of the provider's own
        (None, BackendFault.UPSTREAM),
    ],
)
def test_an_error_inside_a_good_reply_has_its_own_code(error: object, fault: BackendFault) -> None:
    assert FAULTS.of_error({"error": error}).fault is fault


def test_availability_beats_the_status_and_the_next_step_says_so() -> None:
    final = FAULTS.of_reply(503, {"retry-after": "2"}, {"error": {"availability": {"retryable": False}}})
    assert not final.may_retry
    assert "does not help" in final.next_step
    later = FAULTS.of_reply(400, {}, {"error": {"availability": {"retryable": True}}})
    assert later.may_retry
    assert "may be tried again" in later.next_step


@pytest.mark.parametrize("code", [1302, 10**500])
def test_a_number_of_the_providers_own_is_no_http_status(code: int) -> None:
    error = FAULTS.of_error({"error": {"code": code, "message": "busy"}})
    assert error.fault is BackendFault.UPSTREAM
    assert "HTTP" not in str(error)
    assert len(str(error)) < 400


CODES = {
    BackendFault.AUTH: "invalid_api_key authentication_error unauthenticated api_key_invalid InvalidApiKey "
    "UnrecognizedClientException",
    BackendFault.PAYMENT: "payment_required insufficient_quota billing_hard_limit_reached billing_not_active "
    "billing_error Arrearage 1113",
    BackendFault.RATE_LIMIT: "rate_limit_exceeded rate_limit_error RESOURCE_EXHAUSTED ThrottlingException",
    BackendFault.CONTEXT_LENGTH: "context_length_exceeded string_above_max_length request_too_large 1261",
    BackendFault.CONTENT_POLICY: "content_policy_violation content_filter ResponsibleAIPolicyViolation "
    "DataInspectionFailed data_inspection_failed 1301",
    BackendFault.NOT_FOUND: "model_not_found not_found_error provider_not_found NOT_FOUND DeploymentNotFound "
    "ResourceNotFoundException",
    BackendFault.PERMISSION: "permission_error PERMISSION_DENIED AccessDeniedException",
    BackendFault.OVERLOADED: "provider_overloaded overloaded_error UNAVAILABLE ModelNotReadyException "
    "ServiceUnavailableException",
    BackendFault.UPSTREAM: "provider_unavailable server timeout server_error timeout_error DEADLINE_EXCEEDED",
}


@pytest.mark.parametrize(("code", "fault"), [(code, fault) for fault, codes in CODES.items() for code in codes.split()])
def test_a_known_code_beats_the_status(code: str, fault: BackendFault) -> None:
    assert FAULTS.of_reply(418, {}, {"error": {"message": "?", "code": code}}).fault is fault
    assert FAULTS.of_reply(418, {}, {"error": {"message": "?", "type": code}}).fault is fault
    weak = {"error": {"type": "server_error", "metadata": {"error_type": code}}}
    assert FAULTS.of_reply(418, {}, weak).fault is fault


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (401, BackendFault.AUTH),
        (402, BackendFault.PAYMENT),
        (403, BackendFault.PERMISSION),
        (404, BackendFault.NOT_FOUND),
        (424, BackendFault.UPSTREAM),
        (429, BackendFault.RATE_LIMIT),
        (503, BackendFault.OVERLOADED),
        (529, BackendFault.OVERLOADED),
    ],
)
def test_without_words_and_codes_there_is_the_status(status: int, fault: BackendFault) -> None:
    assert FAULTS.of_reply(status, {}, {}).fault is fault
    assert FAULTS.of_error({"error": {"code": status}}).fault is fault


def error(message: str, **fields: object) -> dict[str, object]:
    return {"error": {"message": message, **fields}}


TOO_LONG = [
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",  # xAI
    "Input is too long for requested model.",  # Bedrock
    "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens",  # Together
    "Range of input length should be [1, 30720]",  # DashScope
    "too many tokens: total number of tokens in the prompt exceeds the limit of 4081",  # Cohere
    "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",  # Mistral
    "Please reduce the length of the messages or completion.",  # Groq
    "Decoder prompt (length 5000) is longer than the maximum model length of 4096.",  # vLLM
    "the request exceeds the available context size, try increasing it",  # llama.cpp
    "prompt too long; exceeded max context length by 3 tokens",  # Ollama
    "The number of tokens to keep from the initial prompt is greater than the context length.",  # LM Studio
    "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",  # Gemini
    "The input token count is 1200000 but the model only supports up to 1048576.",  # Vertex
    "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000",  # Anthropic
    "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",  # text-generation-inference
    "Invalid request: Your request exceeded model token limit: 8192 (requested: 9000)",  # Kimi
    "invalid params, context window exceeds limit",  # MiniMax
    "Prompt exceeds max length",  # Zhipu
    "prompt token count of 13000 exceeds the limit of 8192",  # Copilot
]


@pytest.mark.parametrize("status", [400, 422, 500, None])
@pytest.mark.parametrize("message", TOO_LONG)
def test_a_conversation_that_is_too_long_is_known_by_everybodys_words(message: str, status: int | None) -> None:
    read = FAULTS.of_error(error(message)) if status is None else FAULTS.of_reply(status, {}, error(message))
    assert read.fault is BackendFault.CONTEXT_LENGTH
    assert not read.may_retry


QUOTA = "You exceeded your current quota, please check your plan and billing details."
AZURE = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        # A limit that is used up is no rate that passes, whatever the status.
        (403, error("Key limit exceeded (total limit). Manage it", code=403), BackendFault.PAYMENT),
        (429, error(QUOTA, type="insufficient_quota", code="insufficient_quota"), BackendFault.PAYMENT),
        (429, error(QUOTA), BackendFault.PAYMENT),
        (429, error(QUOTA + " Please retry in 34.07s."), BackendFault.RATE_LIMIT),
        (429, error(QUOTA + " Quota: GenerateRequestsPerDay. Please retry in 34s."), BackendFault.PAYMENT),
        (429, error("Your account is not active, please check your billing details."), BackendFault.PAYMENT),
        (429, error("busy", code="1113"), BackendFault.PAYMENT),
        (400, error("Budget has been exceeded! Current cost: 10.1, Max budget: 10.0"), BackendFault.PAYMENT),
        (400, error("Your credit balance is too low to access the API."), BackendFault.PAYMENT),
        (
            429,
            error("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock more"),
            BackendFault.RATE_LIMIT,
        ),
        (429, error("Quota exceeded for quota metric 'Requests' and limit 'per minute'"), BackendFault.RATE_LIMIT),
        # A request that no minute has room for is not accepted in the next one.
        (
            429,
            error("Request too large for model `x`: Limit 6000, Requested 7000", code="rate_limit_exceeded"),
            BackendFault.CONTEXT_LENGTH,
        ),
        (400, error("Too many tokens, please wait before trying again."), BackendFault.RATE_LIMIT),
        # A filter
        (400, error(f"litellm.BadRequestError: AzureException - {AZURE}", code="400"), BackendFault.CONTENT_POLICY),
        (
            400,
            error("x", code="BadRequest", innererror={"code": "ResponsibleAIPolicyViolation"}),
            BackendFault.CONTENT_POLICY,
        ),
        (400, error("Input data may contain inappropriate content."), BackendFault.CONTENT_POLICY),
        (403, error("Your input was flagged as unsafe"), BackendFault.CONTENT_POLICY),
        # A model, a key
        (400, error("Model Not Exist"), BackendFault.NOT_FOUND),
        (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, BackendFault.NOT_FOUND),
        (400, error("acme/x is not a valid model ID"), BackendFault.NOT_FOUND),
        (400, error("The model `x` does not exist or you do not have access to it."), BackendFault.NOT_FOUND),
        (400, error("The model `x-70b` has been decommissioned."), BackendFault.NOT_FOUND),
        (400, [error("API key not valid. Please pass one.", status="INVALID_ARGUMENT")], BackendFault.AUTH),
        (400, error("Incorrect API key provided: xa***yz."), BackendFault.AUTH),
        # A busy server
        (500, error("The engine is currently overloaded, please try again later"), BackendFault.OVERLOADED),
        (500, {"__type": "com.amazon.coral#ThrottlingException", "message": "?"}, BackendFault.RATE_LIMIT),
        # Parameters
        (400, error("max_tokens is too large: 8192. This model supports at most 4096."), BackendFault.BAD_REQUEST),
        (400, error("max_tokens exceeds the maximum number of output tokens"), BackendFault.BAD_REQUEST),
        (
            400,
            error("`max_tokens` must be at most `8192`, which is less than the `context_window` for this model"),
            BackendFault.BAD_REQUEST,
        ),
        (400, error("'max_tokens' is not supported with this model."), BackendFault.BAD_REQUEST),
        (400, error("'temperature' does not support 0.5 with this model."), BackendFault.BAD_REQUEST),
    ],
)
def test_the_reason_beats_the_status(status: int, body: object, fault: BackendFault) -> None:
    read = FAULTS.of_reply(status, {}, body)
    assert read.fault is fault
    wrapped = {"error": {"message": "Provider returned error", "metadata": {"raw": json.dumps(body)}}}
    assert FAULTS.of_reply(status, {}, wrapped).fault is fault


@pytest.mark.parametrize(
    ("limit", "fault"),
    [
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", BackendFault.PAYMENT),
        ("GenerateContentInputTokensPerModelPerMinute-FreeTier", BackendFault.RATE_LIMIT),
    ],
)
def test_googles_limit_of_a_day_is_told_from_that_of_a_minute(limit: str, fault: BackendFault) -> None:
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": limit}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"},
    ]
    read = FAULTS.of_reply(429, {}, [error(QUOTA, code=429, status="RESOURCE_EXHAUSTED", details=details)])
    assert read.fault is fault
    assert read.may_retry is (fault is BackendFault.RATE_LIMIT)
    assert read.retry_after == (timedelta(seconds=34) if read.may_retry else None)


@pytest.mark.parametrize(
    ("status", "said", "fault"),
    [
        (1002, "no", BackendFault.RATE_LIMIT),
        (1004, "no", BackendFault.AUTH),
        (1008, "no", BackendFault.PAYMENT),
        (1026, "no", BackendFault.CONTENT_POLICY),
        (1027, "no", BackendFault.CONTENT_POLICY),
        (1039, "no", BackendFault.RATE_LIMIT),
        (2013, "no", BackendFault.BAD_REQUEST),
        (2049, "no", BackendFault.AUTH),
        (2013, "invalid params, context window exceeds limit", BackendFault.CONTEXT_LENGTH),
        (9999, "insufficient balance", BackendFault.PAYMENT),
    ],
)
def test_an_error_of_minimax_has_its_words_and_its_fault(status: int, said: str, fault: BackendFault) -> None:
    read = FAULTS.of_error({"choices": None, "base_resp": {"status_code": status, "status_msg": said}})
    assert (read.fault, str(read)) == (fault, f"stub says: {said}")


def test_an_option_that_helps_is_named_for_what_is_refused_alone() -> None:
    reader = FaultReader(provider="stub", redactor=Redactor(), hints={"stream_options": "Set it."})
    body = {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}
    assert reader.of_reply(422, {}, body).next_step == "Set it."
    assert reader.of_reply(422, {}, error("no")).next_step == FAULTS.of_reply(422, {}, error("no")).next_step
    assert reader.of_reply(401, {}, body).next_step == FAULTS.of_reply(401, {}, body).next_step


SENTENCES = {
    BackendFault.CONTENT_POLICY: [
        "Output blocked by content filtering policy",
        "The content_policy was violated.",
        "Stopped by content moderation.",
        "Your input was flagged as violent.",
        "Moderation failed for this input",
        "Refused by Responsible AI practices",
        "Your request was rejected as a result of our safety system.",
        "The prompt was blocked for safety reasons",
        "This violates our usage policies.",
        "The request has prohibited content.",
        "Input data may contain inappropriate content.",
        "input new_sensitive",
        "输入包含不安全或敏感内容",
    ],
    BackendFault.CONTEXT_LENGTH: [
        "It does not fit the context window.",
        "context_length_exceeded",
        "This endpoint's maximum context is 8192",
        "Prompt text too large",
        "messages are too long",
        "Too many tokens",
        "The token count of 9 exceeds 8",
        "size limit exceeded by 1000 tokens",
        "The request exceeds the maximum number of tokens allowed",
        "exceeded model token limit: 8192",
        "Prompt exceeds max length",
        "It is over the maximum prompt length",
        "Make sure that `max_model_len` is no smaller than this",
        "Range of input length should be [1, 30720]",
        "input length 9000 exceeds 8192",
        "`inputs` must have less than 4096 tokens",
        "Please reduce the length of the messages.",
    ],
    BackendFault.AUTH: [
        "Incorrect API key provided",
        "Invalid access token",
        "API key not valid. Please pass a valid one.",
        "api_key is required",
        "login fail: carry a key",
        "Authentication Fails, no such user",
    ],
    BackendFault.PAYMENT: [
        "Your credit balance is too low",
        "Insufficient account balance",
        "insufficient_quota",
        "Key limit exceeded (daily limit)",
        "Your spending limit was reached",
        "Billing hard limit has been reached",
        "Budget has been exceeded! Current cost: 10.1",
        "ExceededBudget: User over budget",
        "This request requires more credits, or fewer max_tokens.",
        "You are out of credits",
        "You have no credits left",
        "please check your billing details",
        "Your account is overdue",
        "余额不足或无可用资源包,请充值。",
    ],
    BackendFault.NOT_FOUND: [
        "model 'x:7b' not found, try pulling it first",
        "The requested model does not exist",
        "Model Not Exist",
        "Model: x is not supported",
        "The model x doesn't exist",
        "The model `x` has been decommissioned and is no longer served.",
        "x is not a valid model ID",
        "Unknown model: x",
        "404 page not found",
    ],
    BackendFault.RATE_LIMIT: [
        "Rate limit reached for requests",
        "Too many requests",
        "Request was throttled.",
        "Quota exceeded for this metric",
        "Too many tokens, please wait before trying again.",
    ],
}


@pytest.mark.parametrize(("fault", "said"), [(fault, said) for fault, several in SENTENCES.items() for said in several])
def test_what_a_sentence_says_is_known_where_status_and_code_say_little(fault: BackendFault, said: str) -> None:
    assert FAULTS.of_reply(400, {}, error(said, type="invalid_request_error", code=None)).fault is fault
    assert FAULTS.of_reply(500, {}, error(said, type="server_error")).fault is fault
    assert FAULTS.of_error(error(said)).fault is fault
    assert FAULTS.of_reply(404, {}, error(said)).fault is BackendFault.NOT_FOUND


@pytest.mark.parametrize(
    "said",
    [
        "The engine is currently overloaded",
        "We are at capacity",
        "Capacity exceeded",
        "The model is experiencing high demand",
        "This is temporarily unavailable",
        "The server is busy",
        "no healthy upstream",
    ],
)
def test_a_server_that_is_busy_is_told_from_one_that_failed(said: str) -> None:
    assert FAULTS.of_reply(500, {}, error(said)).fault is BackendFault.OVERLOADED
    assert FAULTS.of_reply(400, {}, error(said)).fault is BackendFault.BAD_REQUEST


@pytest.mark.parametrize("said", ["Request too large for model `x`", "Limit 6000, please reduce your message size"])
def test_a_request_that_no_minute_has_room_for_is_too_long(said: str) -> None:
    assert FAULTS.of_reply(429, {}, error(said)).fault is BackendFault.CONTEXT_LENGTH


def test_a_filter_is_answered_by_other_words_and_a_used_up_limit_by_money() -> None:
    assert "reword" in FAULTS.of_reply(400, {}, error(AZURE)).next_step
    used_up = FAULTS.of_reply(403, {}, error("Key limit exceeded"))
    assert "raise the limit" in used_up.next_step
    assert not used_up.may_retry
