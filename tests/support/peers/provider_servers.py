"""LiteLLM, LM Studio, Ollama, OpenRouter and vLLM, by their sources, documentation and public reports."""

from decimal import Decimal

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.core.backends.events import Usage
from tests.support.peers.provider_ways import (
    BLUE,
    COMMON,
    DONE,
    PLAIN,
    SKY,
    THOUGHT,
    Refusal,
    Ways,
    chunk,
    counts,
    error,
)

SERVERS: dict[str, tuple[Ways, ...]] = {
    "litellm": (
        Ways(
            chat="/v1/chat/completions",
            models="/v1/models",
            model="gpt-5-mini",
            headers={"x-litellm-model-id": "1", "x-litellm-response-cost": "0.0001", "x-litellm-version": "1.108.7"},
            frames=(*PLAIN, chunk({}, usage=counts(14, 5, prompt_tokens_details={"cached_tokens": 0})), DONE),
            usage=Usage(input_tokens=14, output_tokens=5, cached_tokens=0),
            served_by="litellm",
            takes=None,
            refusals={
                "key": Refusal(
                    status=401,
                    body=error(
                        "Authentication Error, Invalid proxy server token passed. Unable to find token in cache.",
                        type="auth_error",
                        param="None",
                        code="401",
                    ),
                    fault=BackendFault.AUTH,
                    says="Invalid proxy server token passed",
                ),
                "model": Refusal(
                    body=error(
                        "/chat/completions: Invalid model name passed in model=gone. "
                        "Call `/v1/models` to view available models for your key.",
                        type="invalid_request_error",
                        param="None",
                        code="400",
                    ),
                    fault=BackendFault.NOT_FOUND,
                    says="Call `/v1/models` to view available models",
                ),
                "budget": Refusal(
                    body=error(
                        "Budget has been exceeded! Current cost: 0.02, Max budget: 0.01",
                        type="budget_exceeded",
                        param=None,
                        code="400",
                    ),
                    fault=BackendFault.PAYMENT,
                    says="Budget has been exceeded",
                ),
                "busy": Refusal(
                    status=429,
                    body=error(
                        "litellm.RateLimitError: RateLimitError: OpenAIException - Rate limit reached for gpt-5-mini.",
                        type="throttling_error",
                        param=None,
                        code="429",
                    ),
                    headers={"llm_provider-retry-after": "11"},
                    fault=BackendFault.RATE_LIMIT,
                    says="Rate limit reached for gpt-5-mini",
                    retry_after=11,
                ),
                "filter": Refusal(
                    body=error(
                        "litellm.BadRequestError: litellm.ContentPolicyViolationError: AzureException - The response "
                        "was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                        type=None,
                        param=None,
                        code="400",
                    ),
                    fault=BackendFault.CONTENT_POLICY,
                    says="content management policy",
                ),
                "cut": Refusal(
                    body=SKY
                    + 'data: {"error": {"message": "litellm.APIConnectionError: upstream went away", '
                    + '"type": null, "param": null, "code": "500"}}\n\n',
                    in_stream=True,
                    fault=BackendFault.UPSTREAM,
                    says="upstream went away",
                ),
            },
        ),
    ),
    "lmstudio": (
        Ways(
            chat="/v1/chat/completions",
            models="/v1/models",
            model="qwen/qwen3-8b",
            key_header=None,
            frames=(
                chunk({"role": "assistant", "reasoning_content": THOUGHT}),
                *PLAIN,
                chunk(usage=counts(17, 6)),
                DONE,
            ),
            thought=THOUGHT,
            usage=Usage(input_tokens=17, output_tokens=6),
            served_by="lmstudio",
            takes=None,
            refusals={
                "key": Refusal(
                    status=401,
                    body=error(
                        "Malformed LM Studio API token provided.", type="invalid_request_error", code="invalid_api_key"
                    ),
                    fault=BackendFault.AUTH,
                    says="Malformed LM Studio API token",
                ),
                "path": Refusal(
                    status=200,
                    body={"error": "Unexpected endpoint or method. (POST /chat/completions)"},
                    fault=BackendFault.NOT_FOUND,
                    says="Unexpected endpoint or method",
                    hint="check base_url, which often ends in /v1",
                    options={"base_url": "{origin}"},
                ),
                "model": Refusal(
                    body=error(
                        "Model gone not found. Please specify a valid model.",
                        type="invalid_request_error",
                        param="model",
                        code="model_not_found",
                    ),
                    fault=BackendFault.NOT_FOUND,
                    says="Model gone not found",
                ),
                "long": Refusal(
                    body='event: error\ndata: {"error": {"message": "The number of tokens to keep from the initial '
                    'prompt is greater than the context length."}}\n\n',
                    in_stream=True,
                    fault=BackendFault.CONTEXT_LENGTH,
                    says="greater than the context length",
                ),
                "crash": Refusal(
                    body=SKY + 'event: error\ndata: {"error": {"message": "The model has crashed without additional '
                    'information. (Exit code: 6)"}}\n\n',
                    in_stream=True,
                    fault=BackendFault.UPSTREAM,
                    says="The model has crashed",
                ),
            },
        ),
    ),
    "ollama": (
        Ways(
            chat="/v1/chat/completions",
            models="/v1/models",
            model="qwen3:8b",
            key_header=None,
            frames=(
                chunk({"role": "assistant", "content": "", "reasoning": THOUGHT}),
                *PLAIN,
                # What it had in its cache was not evaluated, so it counts nothing.
                chunk(usage=counts(0, 7)),
                DONE,
            ),
            thought=THOUGHT,
            usage=Usage(output_tokens=7),
            served_by="ollama",
            takes=None,
            refusals={
                "key": Refusal(
                    status=401,
                    body=error("unauthorized", type="api_error"),
                    fault=BackendFault.AUTH,
                    says="unauthorized",
                ),
                "path": Refusal(
                    status=404,
                    body="404 page not found",
                    fault=BackendFault.NOT_FOUND,
                    says="404 page not found",
                    options={"base_url": "{origin}"},
                ),
                "model": Refusal(
                    status=404,
                    body=error("model 'gone' not found", type="not_found_error", param=None, code=None),
                    fault=BackendFault.NOT_FOUND,
                    says="model 'gone' not found",
                ),
                "memory": Refusal(
                    status=500,
                    body=error(
                        "model requires more system memory (9.2 GiB) than is available (7.1 GiB)",
                        type="api_error",
                        param=None,
                        code=None,
                    ),
                    fault=BackendFault.UPSTREAM,
                    says="requires more system memory",
                ),
                "thinks": Refusal(
                    body=error('"qwen3:8b" does not support thinking', type="invalid_request_error"),
                    fault=BackendFault.BAD_REQUEST,
                    says="does not support thinking",
                ),
                "busy": Refusal(
                    status=503,
                    body=error("server busy, please try again.  maximum pending requests exceeded", type="api_error"),
                    fault=BackendFault.OVERLOADED,
                    says="maximum pending requests exceeded",
                ),
            },
        ),
    ),
    "openrouter": (
        Ways(
            chat="/api/v1/chat/completions",
            models="/api/v1/key",
            model="google/gemini-3.5-flash",
            takes=COMMON | {"models", "provider"},
            frames=(
                ": OPENROUTER PROCESSING\n\n",
                chunk({"role": "assistant", "content": "", "reasoning": THOUGHT}, provider="Google"),
                SKY,
                BLUE,
                chunk({"content": ""}, "stop", provider="Google"),
                chunk(
                    {"content": ""},
                    usage=counts(25, 8, cost=0.00014, prompt_tokens_details={"cached_tokens": 5}),
                    provider="Google",
                ),
                DONE,
            ),
            thought=THOUGHT,
            usage=Usage(input_tokens=25, output_tokens=8, cached_tokens=5, cost_usd=Decimal("0.00014")),
            served_by="Google",
            refusals={
                "key": Refusal(
                    status=401,
                    body=error("User not found.", code=401),
                    fault=BackendFault.AUTH,
                    says="User not found",
                ),
                "model": Refusal(
                    body=error("gone is not a valid model ID", code=400),
                    fault=BackendFault.NOT_FOUND,
                    says="gone is not a valid model ID",
                ),
                "credit": Refusal(
                    status=402,
                    body=error("This request requires more credits, or fewer max_tokens.", code=402),
                    fault=BackendFault.PAYMENT,
                    says="requires more credits",
                ),
                "limit": Refusal(
                    status=403,
                    body=error("Key limit exceeded (total limit).", code=403),
                    fault=BackendFault.PAYMENT,
                    says="Key limit exceeded",
                ),
                "flagged": Refusal(
                    status=403,
                    body=error(
                        "Your input was flagged",
                        code=403,
                        metadata={"reasons": ["violence"], "provider_name": "OpenAI"},
                    ),
                    fault=BackendFault.CONTENT_POLICY,
                    says="Your input was flagged",
                ),
                "raw": Refusal(
                    body=error(
                        "Provider returned error",
                        code=400,
                        metadata={
                            "provider_name": "Together",
                            "raw": '{"error": {"message": "This model\'s maximum context length is 8192 tokens."}}',
                        },
                    ),
                    fault=BackendFault.CONTEXT_LENGTH,
                    says="maximum context length is 8192 tokens",
                ),
                "cut": Refusal(
                    body=SKY
                    + 'data: {"error": {"code": 502, "message": "Provider disconnected"}, "choices": [{"index": 0, '
                    '"delta": {"content": ""}, "finish_reason": "error"}]}\n\n',
                    in_stream=True,
                    fault=BackendFault.UPSTREAM,
                    says="Provider disconnected",
                ),
            },
        ),
    ),
    "vllm": (
        Ways(
            chat="/v1/chat/completions",
            models="/v1/models",
            model="Qwen/Qwen3-8B",
            key_header=None,
            frames=(
                chunk({"role": "assistant", "content": ""}),
                chunk({"reasoning": THOUGHT}),
                SKY,
                BLUE,
                chunk({"content": ""}, "stop", stop_reason=None),
                chunk(usage=counts(13, 8, prompt_tokens_details=None)),
                DONE,
            ),
            thought=THOUGHT,
            usage=Usage(input_tokens=13, output_tokens=8),
            served_by="vllm",
            takes=None,
            refusals={
                "key": Refusal(
                    status=401, body={"error": "Unauthorized"}, fault=BackendFault.AUTH, says="Unauthorized"
                ),
                "path": Refusal(
                    status=404,
                    body={"detail": "Not Found"},
                    fault=BackendFault.NOT_FOUND,
                    says="Not Found",
                    options={"base_url": "{origin}"},
                ),
                "model": Refusal(
                    status=404,
                    body=error("The model `gone` does not exist.", type="NotFoundError", param="model", code=404),
                    fault=BackendFault.NOT_FOUND,
                    says="The model `gone` does not exist",
                ),
                "old": Refusal(  # before the errors were put into `error`
                    status=404,
                    body={
                        "object": "error",
                        "message": "The model `gone` does not exist.",
                        "type": "NotFoundError",
                        "param": None,
                        "code": 404,
                    },
                    fault=BackendFault.NOT_FOUND,
                    says="The model `gone` does not exist",
                ),
                "long": Refusal(
                    body=error(
                        "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context "
                        "length is 8192 tokens and your request has 12 input tokens (8192 > 8192 - 12).",
                        type="BadRequestError",
                        param="max_tokens",
                        code=400,
                    ),
                    fault=BackendFault.CONTEXT_LENGTH,
                    says="'max_completion_tokens' is too large: 8192",
                ),
                "template": Refusal(
                    body=error(
                        "As of transformers v4.44, default chat template is no longer allowed, so you must provide a "
                        "chat template if the tokenizer does not define one.",
                        type="BadRequestError",
                        code=400,
                    ),
                    fault=BackendFault.BAD_REQUEST,
                    says="you must provide a chat template",
                ),
                "cut": Refusal(
                    body=SKY + 'data: {"error": {"message": "EngineCore encountered an issue.", "type": '
                    '"InternalServerError", "param": null, "code": 500}}\n\ndata: [DONE]\n\n',
                    in_stream=True,
                    fault=BackendFault.UPSTREAM,
                    says="EngineCore encountered an issue",
                ),
            },
        ),
    ),
}
