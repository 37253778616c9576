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
        (410, {"message": "The model was retired"}, BackendFault.NOT_FOUND),
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
        (1002, "rate limit", BackendFault.RATE_LIMIT),
        (1004, "login fail", BackendFault.AUTH),
        (1008, "insufficient balance", BackendFault.PAYMENT),
        (1027, "output new_sensitive", BackendFault.CONTENT_POLICY),
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


def test_a_filter_is_answered_by_other_words_and_a_used_up_limit_by_money() -> None:
    assert "reword" in FAULTS.of_reply(400, {}, error(AZURE)).next_step
    used_up = FAULTS.of_reply(403, {}, error("Key limit exceeded"))
    assert "raise the limit" in used_up.next_step
    assert not used_up.may_retry
