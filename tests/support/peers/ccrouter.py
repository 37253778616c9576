"""A peer that speaks as claude-code-router does, in its second or third version; scripted as the Messages peer."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from typing_extensions import override

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.testing.http import Answer, Exchange, Pace, Ticks
from agentapi_mcp.testing.peers import BUSY_WORDS, REASON, Behaviour, Peer
from tests.support.peers.cases import BuiltInCase
from tests.support.peers.faults import Expected
from tests.support.peers.messages import KEY, WORDS, Json, MessagesPeer, Script, messages_faults, messages_peer, say

UPSTREAM_KEY = "sk-upstream-0123456789abcdef"
_STACK = "\n    at async /srv/ccr/dist/cli.js:81:1234\n    at process.processTicksAndRejections (node:internal)"
_GOOGLE_BUSY: Json = {
    "error": {
        "code": 429,
        "message": "Resource exhausted, try again later.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"}],
    }
}
_SAID: dict[str, tuple[int, Json]] = {
    "contextlen": (400, {"error": {"message": "This model's maximum context length is 8192 tokens."}}),
    "explains": (400, {"detail": [{"loc": ["body", "messages"], "msg": REASON}]}),
    "says": (429, {"error": {"message": BUSY_WORDS}}),
    "moderation": (403, {"error": {"code": 403, "message": "Flagged", "metadata": {"reasons": ["violence"]}}}),
}


class CcrouterPeer(MessagesPeer):
    """The router; `major` is its version, `providers` what it is configured with."""

    def __init__(self, *, major: int = 2, pace: Pace | None = None) -> None:
        super().__init__(pace=pace)
        self.major = major
        self.providers: list[Json] = [
            {
                "name": "stub",
                "api_base_url": "http://127.0.0.1:1/v1",
                "api_key": UPSTREAM_KEY,
                "models": ["m-1", "m-2"],
            },
            {"name": "other", "api_base_url": "http://127.0.0.1:1/v1", "api_key": UPSTREAM_KEY, "models": ["m-1"]},
        ]

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        path = exchange.path
        if path == "/":
            second = {"message": "LLMs API", "version": "1.0.51"}
            await answer.json(200, second if self.major < 3 else {"name": "claude-code-router", "version": "3.1.1"})
        elif path == "/health":
            await answer.json(200, {"status": "ok", "timestamp": "2026-01-01T00:00:00Z"})
        elif exchange.headers.get("authorization") != f"Bearer {KEY}":
            await answer.text(401, "Invalid API key", "text/plain")
        elif path == "/api/config" and self.major < 3:
            await answer.json(200, {"APIKEY": KEY, "Providers": self.providers, "Router": {}})
        elif path == "/v1/models" and self.major >= 3:
            names = [f"{row['name']}/{model}" for row in self.providers for model in (row["models"] or [])]  # type: ignore[attr-defined]  # lists of names
            await answer.json(200, {"data": [{"id": name} for name in names]})
        else:
            await super().answer(exchange, answer)

    @override
    async def fail(self, script: Script, exchange: Exchange, answer: Answer) -> bool:
        """Answer with a failure, where one is asked for; Retry-After is lost on the way."""
        status = script.number("e")
        special = next((said for word, said in _SAID.items() if word in script.words), None)
        if status == 404:
            message = "Provider 'nope' not foundError: Provider 'nope' not found" + _STACK
            await answer.json(404, _error(message, "provider_not_found"))
        elif status is not None:
            upstream = _GOOGLE_BUSY if status == 429 else {"error": {"message": f"A failure of status {status}"}}
            await answer.json(status, _wrapped(script, status, upstream))
        elif special is not None:
            await answer.json(special[0], _wrapped(script, *special))
        elif "leak" in script.words:
            key = exchange.headers["authorization"].removeprefix("Bearer ")
            await answer.json(401, _wrapped(script, 401, f"The key {key} is wrong, says /srv/app/keys.py\nTraceback"))
        else:
            return await super().fail(script, exchange, answer)
        return True

    @override
    async def end_with_error(self, answer: Answer) -> None:
        """Fail within a stream, and then end it as if all were well."""
        await say(answer, "error", message={"message": "Provider disconnected", "code": 502})
        await say(answer, "message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 0})
        await say(answer, "message_stop")

    @override
    def streamed_start(self, script: Script) -> Json:
        """Write the bill at a stream's beginning: the router does not know it yet."""
        del script
        return {"input_tokens": 0}

    @override
    def streamed_usage(self, script: Script) -> Json:
        """Write the bill at a stream's end."""
        return {**script.usage, "cache_creation_input_tokens": 0}


def _error(message: str, code: str) -> Json:
    return {"error": {"message": message, "type": "api_error", "code": code}}


def _wrapped(script: Script, status: int, upstream: object) -> Json:
    said = upstream if isinstance(upstream, str) else json.dumps(upstream)
    begin = f"Error from provider({script.model}: {status}): {said}"
    return _error(f"{begin}Error: {begin}{_STACK}", "provider_response_error")


class CcrouterCase:
    """Runs the contract suite streamed and whole."""

    kind = "ccrouter"
    variants = ("streamed", "whole")
    words: Mapping[Behaviour, str] = WORDS
    answer = "w0 w1 w2 "
    not_applicable: Mapping[Behaviour, str] = {}
    unreachable: str | None = None
    bills_refusals: str | None = None
    secrets = (KEY, UPSTREAM_KEY)

    def in_pieces(self, variant: str) -> bool:
        """Tell by the variant's name."""
        return variant == "streamed"

    def faults(self, variant: str) -> Mapping[str, Expected]:
        """Tell the faults of the Messages API; the router loses what the provider says of when to come back."""
        return messages_faults(streams=self.in_pieces(variant)) | {"e529": Expected(fault=BackendFault.OVERLOADED)}

    @asynccontextmanager
    async def start(self, variant: str) -> AsyncGenerator[Peer]:
        """Start the router."""
        async with CcrouterPeer(pace=Ticks(0.02)) as server:
            yield messages_peer(server, variant, "stub,stub-{}")


CASE: BuiltInCase = CcrouterCase()
