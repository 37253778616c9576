"""Azure, DeepSeek, Gemini, Groq, Mistral and Vertex AI, by their documentation and public reports."""

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.core.backends.events import Usage
from agentapi_mcp.core.backends.models import HealthStatus
from tests.support.peers.provider_ways import (
    BLUE,
    COMMON,
    DONE,
    FIELD,
    GOOGLES,
    PLAIN,
    SKY,
    THOUGHT,
    UNKNOWN_FIELD,
    Json,
    Refusal,
    Ways,
    chunk,
    counts,
    error,
    googles,
)

_AZURES_FILTER = Refusal(
    body=error(
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.",
        type=None,
        param="prompt",
        code="content_filter",
        status=400,
        innererror={
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
        },
    ),
    fault=BackendFault.CONTENT_POLICY,
    says="content management policy",
)
_AZURES: dict[str, Refusal] = {
    "key": Refusal(
        status=401,
        body=error("Access denied due to invalid subscription key or wrong API endpoint.", code="401"),
        fault=BackendFault.AUTH,
        says="invalid subscription key",
    ),
    "path": Refusal(
        status=404,
        body=error("Resource not found", code="404"),
        fault=BackendFault.NOT_FOUND,
        says="Resource not found",
        options={"base_url": "{origin}/openai/deployments/gone"},
    ),
    "filter": _AZURES_FILTER,
    "busy": Refusal(
        status=429,
        body=error("Requests have exceeded the token rate limit. Please retry after 26 seconds.", code="429"),
        headers={"retry-after": "26"},
        fault=BackendFault.RATE_LIMIT,
        says="token rate limit",
        retry_after=26,
    ),
    "field": Refusal(
        body=error(f"Unrecognized request argument supplied: {FIELD}", type="invalid_request_error", code=None),
        fault=BackendFault.BAD_REQUEST,
        says="Unrecognized request argument supplied: surprise",
        options=UNKNOWN_FIELD,
    ),
}
_AZURES_V1 = _AZURES | {
    "model": Refusal(
        status=404,
        body=error("The API deployment for this resource does not exist.", code="DeploymentNotFound"),
        fault=BackendFault.NOT_FOUND,
        says="deployment for this resource does not exist",
    ),
    "max_tokens": Refusal(
        body=error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            type="invalid_request_error",
            param="max_tokens",
            code="unsupported_parameter",
        ),
        fault=BackendFault.BAD_REQUEST,
        says="'max_tokens' is not supported",
        options={"max_tokens_parameter": "max_tokens"},
        hint='max_tokens_parameter = "max_completion_tokens"',
    ),
    "temperature": Refusal(
        body=error(
            "Unsupported value: 'temperature' does not support 0.5 with this model. "
            "Only the default (1) value is supported.",
            type="invalid_request_error",
            param="temperature",
            code="unsupported_value",
        ),
        fault=BackendFault.BAD_REQUEST,
        says="'temperature' does not support 0.5",
        hint='omit_parameters = ["temperature"]',
        options={"omit_parameters": []},
    ),
}
_AZURES_FRAMES = (
    chunk(prompt_filter_results=[{"prompt_index": 0}]),
    *PLAIN,
    chunk({}, None, content_filter_offsets={"check_offset": 44}),
    chunk(usage=counts(21, 9, prompt_tokens_details={"cached_tokens": 8})),
    DONE,
)
_GOOGLES_UNKNOWN_FIELD = Refusal(
    body=googles(400, "INVALID_ARGUMENT", f'Invalid JSON payload received. Unknown name "{FIELD}": Cannot find field.'),
    fault=BackendFault.BAD_REQUEST,
    says='Unknown name "surprise"',
    options=UNKNOWN_FIELD,
)


def _mistrals_complaint(*loc: str) -> Json:
    said = {"type": "extra_forbidden", "loc": ["body", *loc], "msg": "Extra inputs are not permitted", "input": True}
    return {"detail": [said]}


CLOUDS: dict[str, tuple[Ways, ...]] = {
    "azure": (
        Ways(
            chat="/openai/v1/chat/completions",
            models="/openai/v1/models",
            model="gpt-5-mini",
            key_header="api-key",
            takes=COMMON - {"max_tokens", "temperature"} | {"max_completion_tokens"},
            frames=_AZURES_FRAMES,
            usage=Usage(input_tokens=21, output_tokens=9, cached_tokens=8),
            served_by="azure",
            refusals=_AZURES_V1,
        ),
        Ways(
            chat="/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            models="/openai/models?api-version=2024-10-21",
            model="gpt-4o",
            key_header="api-key",
            frames=_AZURES_FRAMES,
            usage=Usage(input_tokens=21, output_tokens=9, cached_tokens=8),
            served_by="azure",
            refusals=_AZURES,
        ),
    ),
    "deepseek": (
        Ways(
            chat="/v1/chat/completions",
            models="/v1/models",
            model="deepseek-flash",
            frames=(
                ": keep-alive\n\n",
                chunk({"role": "assistant", "content": None, "reasoning_content": "Rayleigh "}),
                chunk({"content": None, "reasoning_content": "scattering"}),
                chunk({"content": "The sky ", "reasoning_content": None}),
                BLUE,
                chunk(
                    {"content": ""},
                    "stop",
                    usage=counts(
                        30,
                        19,
                        prompt_cache_hit_tokens=20,
                        prompt_cache_miss_tokens=10,
                        completion_tokens_details={"reasoning_tokens": 12},
                    ),
                ),
                DONE,
            ),
            thought=THOUGHT,
            usage=Usage(input_tokens=30, output_tokens=19, cached_tokens=20, reasoning_tokens=12),
            served_by="deepseek",
            takes=None,
            refusals={
                "key": Refusal(
                    status=401,
                    body=error(
                        "Authentication Fails, Your api key: ****cdef is invalid",
                        type="authentication_error",
                        param=None,
                        code="invalid_request_error",
                    ),
                    fault=BackendFault.AUTH,
                    says="Authentication Fails",
                ),
                "model": Refusal(
                    body=error("Model Not Exist", type="invalid_request_error", code="invalid_request_error"),
                    fault=BackendFault.NOT_FOUND,
                    says="Model Not Exist",
                ),
                "balance": Refusal(
                    status=402,
                    body=error("Insufficient Balance", type="unknown_error", code="invalid_request_error"),
                    fault=BackendFault.PAYMENT,
                    says="Insufficient Balance",
                ),
                "invalid": Refusal(
                    status=422,
                    body="Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant",
                    fault=BackendFault.BAD_REQUEST,
                    says="Failed to deserialize the JSON body",
                ),
                "long": Refusal(
                    body=error(
                        "This model's maximum context length is 1048576 tokens. However, you requested 1050000 tokens "
                        "(1040000 in the messages, 10000 in the completion).",
                        type="invalid_request_error",
                    ),
                    fault=BackendFault.CONTEXT_LENGTH,
                    says="maximum context length is 1048576",
                ),
                "busy": Refusal(
                    status=503,
                    body=error("Service is too busy. We advise users to temporarily switch to alternative LLM APIs."),
                    fault=BackendFault.OVERLOADED,
                    says="Service is too busy",
                ),
            },
        ),
    ),
    "gemini": (
        Ways(
            chat="/v1beta/openai/chat/completions",
            models="/v1beta/openai/models",
            model="gemini-3.5-flash",
            frames=(
                SKY,
                # What it thought is counted in the total alone.
                chunk({"content": "is blue."}, "stop", usage=counts(12, 6) | {"total_tokens": 58}),
                DONE,
            ),
            usage=Usage(input_tokens=12, output_tokens=46),
            served_by="gemini",
            takes=COMMON | {"reasoning_effort"},
            refusals={
                "key": Refusal(
                    body=googles(
                        400,
                        "INVALID_ARGUMENT",
                        "API key not valid. Please pass a valid API key.",
                        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
                    ),
                    fault=BackendFault.AUTH,
                    says="API key not valid",
                ),
                "model": Refusal(
                    status=404,
                    body=googles(404, "NOT_FOUND", "models/gone is not found for API version v1main."),
                    fault=BackendFault.NOT_FOUND,
                    says="models/gone is not found",
                ),
                "field": _GOOGLES_UNKNOWN_FIELD,
                "minute": Refusal(
                    status=429,
                    body=googles(
                        429,
                        "RESOURCE_EXHAUSTED",
                        "You exceeded your current quota, please check your plan and billing details.",
                        {
                            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                            "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}],
                        },
                        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33s"},
                    ),
                    fault=BackendFault.RATE_LIMIT,
                    says="exceeded your current quota",
                    retry_after=33,
                ),
                "day": Refusal(
                    status=429,
                    body=googles(
                        429,
                        "RESOURCE_EXHAUSTED",
                        "You exceeded your current quota, please check your plan and billing details.",
                        {
                            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                            "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
                        },
                    ),
                    fault=BackendFault.PAYMENT,
                    says="exceeded your current quota",
                ),
                "busy": Refusal(
                    status=503,
                    body=googles(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
                    fault=BackendFault.OVERLOADED,
                    says="The model is overloaded",
                ),
            },
        ),
    ),
    "groq": (
        Ways(
            chat="/openai/v1/chat/completions",
            models="/openai/v1/models",
            model="openai/gpt-oss-120b",
            frames=(
                chunk({"role": "assistant", "content": "", "reasoning": THOUGHT}, x_groq={"id": "req_1"}),
                SKY,
                BLUE,
                chunk({}, "stop", x_groq={"id": "req_1", "usage": counts(18, 7, queue_time=0.02)}),
                DONE,
            ),
            thought=THOUGHT,
            usage=Usage(input_tokens=18, output_tokens=7),
            served_by="groq",
            refusals={
                "key": Refusal(
                    status=401,
                    body=error("Invalid API Key", type="invalid_request_error", code="invalid_api_key"),
                    fault=BackendFault.AUTH,
                    says="Invalid API Key",
                ),
                "model": Refusal(
                    status=404,
                    body=error(
                        "The model `gone` does not exist or you do not have access to it.",
                        type="invalid_request_error",
                        code="model_not_found",
                    ),
                    fault=BackendFault.NOT_FOUND,
                    says="The model `gone` does not exist",
                ),
                "field": Refusal(
                    body=error(f"property '{FIELD}' is unsupported", type="invalid_request_error"),
                    fault=BackendFault.BAD_REQUEST,
                    says="property 'surprise' is unsupported",
                    options=UNKNOWN_FIELD,
                ),
                "large": Refusal(
                    status=413,
                    body=error(
                        "Request too large for model `openai/gpt-oss-120b` in organization `org_1` service tier "
                        "`on_demand` on tokens per minute (TPM): Limit 8000, Requested 32979, please reduce your "
                        "message size and try again.",
                        type="tokens",
                        code="rate_limit_exceeded",
                    ),
                    fault=BackendFault.CONTEXT_LENGTH,
                    says="Limit 8000, Requested 32979",
                ),
                "busy": Refusal(
                    status=429,
                    body=error(
                        "Rate limit reached for model `openai/gpt-oss-120b` on tokens per minute (TPM): Limit 6000, "
                        "Used 5034, Requested 1443. Please try again in 4.77s.",
                        type="tokens",
                        code="rate_limit_exceeded",
                    ),
                    fault=BackendFault.RATE_LIMIT,
                    says="Rate limit reached",
                    retry_after=4.77,
                ),
                "capacity": Refusal(
                    status=498,
                    body=error("Flex tier capacity exceeded for model", type="flex", code="capacity_exceeded"),
                    fault=BackendFault.OVERLOADED,
                    says="Flex tier capacity exceeded",
                ),
            },
        ),
    ),
    "mistral": (
        Ways(
            chat="/v1/chat/completions",
            models="/v1/models",
            model="mistral-medium-latest",
            frames=(
                chunk({"role": "assistant", "content": ""}),
                chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}]}),
                chunk({"content": [{"type": "text", "text": "The sky "}]}),
                chunk({"content": "is blue."}, "stop", usage=counts(16, 11)),
                DONE,
            ),
            thought=THOUGHT,
            usage=Usage(input_tokens=16, output_tokens=11),
            served_by="mistral",
            takes=COMMON - {"stream_options"},
            refusals={
                "key": Refusal(
                    status=401, body={"detail": "Unauthorized"}, fault=BackendFault.AUTH, says="Unauthorized"
                ),
                "model": Refusal(
                    body={"object": "error", "message": "Invalid model: gone", "type": "invalid_model", "code": "1500"},
                    fault=BackendFault.NOT_FOUND,
                    says="Invalid model: gone",
                ),
                "stream_options": Refusal(
                    status=422,
                    body={"object": "error", "message": _mistrals_complaint("stream_options", "include_usage")},
                    fault=BackendFault.BAD_REQUEST,
                    says="stream_options.include_usage: Extra inputs are not permitted",
                    options={"include_usage": True},
                    hint="include_usage = false",
                ),
                "field": Refusal(
                    status=422,
                    body={"object": "error", "message": _mistrals_complaint(FIELD), "type": "invalid_request_error"},
                    fault=BackendFault.BAD_REQUEST,
                    says="surprise: Extra inputs are not permitted",
                    options=UNKNOWN_FIELD,
                ),
                "busy": Refusal(
                    status=429,
                    body={"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"},
                    fault=BackendFault.RATE_LIMIT,
                    says="Rate limit exceeded",
                ),
                "long": Refusal(
                    body={
                        "object": "error",
                        "message": "Prompt contains 140000 tokens, too large for model with 131072 maximum context "
                        "length",
                        "type": "invalid_request_prompt",
                        "code": "3051",
                    },
                    fault=BackendFault.CONTEXT_LENGTH,
                    says="too large for model with 131072 maximum context length",
                ),
            },
        ),
    ),
    "vertex": (
        Ways(
            chat="/v1/projects/MY_PROJECT/locations/global/endpoints/openapi/chat/completions",
            models=None,
            health=HealthStatus.UNKNOWN,
            model="google/gemini-3.5-flash",
            key=GOOGLES,
            frames=(
                SKY,
                chunk(
                    {"content": "is blue."},
                    "stop",
                    usage=counts(12, 6, completion_tokens_details={"reasoning_tokens": 40}) | {"total_tokens": 58},
                ),
                DONE,
            ),
            usage=Usage(input_tokens=12, output_tokens=46, reasoning_tokens=40),
            served_by="vertex",
            takes=COMMON | {"reasoning_effort"},
            refusals={
                "key": Refusal(
                    status=401,
                    body=googles(
                        401,
                        "UNAUTHENTICATED",
                        "Request had invalid authentication credentials. Expected OAuth 2 access token.",
                    ),
                    fault=BackendFault.AUTH,
                    says="invalid authentication credentials",
                ),
                "path": Refusal(
                    status=404,
                    body="The requested URL was not found on this server.",
                    fault=BackendFault.NOT_FOUND,
                    says="The requested URL was not found",
                    options={"base_url": "{origin}/v1/endpoints/openapi"},
                ),
                "model": Refusal(
                    status=404,
                    body=googles(
                        404,
                        "NOT_FOUND",
                        "Publisher Model `projects/my-project/locations/global/publishers/google/models/gone` was not "
                        "found or your project does not have access to it.",
                    ),
                    fault=BackendFault.NOT_FOUND,
                    says="your project does not have access to it",
                ),
                "field": _GOOGLES_UNKNOWN_FIELD,
                "permission": Refusal(
                    status=403,
                    body=googles(
                        403, "PERMISSION_DENIED", "Permission 'aiplatform.endpoints.predict' denied on resource."
                    ),
                    fault=BackendFault.PERMISSION,
                    says="Permission 'aiplatform.endpoints.predict' denied",
                ),
                "busy": Refusal(
                    status=429,
                    body=googles(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."),
                    fault=BackendFault.RATE_LIMIT,
                    says="Resource exhausted",
                ),
            },
        ),
    ),
}
