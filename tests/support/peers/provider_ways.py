"""How providers speak: what each sends, and what it refuses, in its own words.

The rows are in provider_clouds.py and provider_servers.py, one for each TOML block of a page in docs/providers/. A
provider answers nothing that the real one would refuse: a wrong address, no key, another model, a field that it does
not know.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from typing_extensions import override

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.core.backends.events import Usage
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from tests.support.peers.strict import complaint_about

Json = dict[str, object]

KEY = "provider-test-0123456789abcdef"
GOOGLES = "ya29.stub-1"  # the first token of the token server
TEXT, THOUGHT = "The sky is blue.", "Rayleigh scattering"
FIELD = "FIELD"  # in a refusal: the name of the field that is refused
COMMON = frozenset({"model", "messages", "stream", "stream_options", "temperature", "max_tokens"})
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """How a provider refuses, and what of it reaches the reader; `options` of an agent provoke it, or its name.

    `in_stream` says that it comes as an event of a reply with status 200.
    """

    status: int = 400
    body: object
    fault: BackendFault
    says: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    retry_after: float | None = None
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    hint: str = ""
    in_stream: bool = False


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How a provider speaks; `takes` are the fields of its requests, None those of a server that passes others over."""

    chat: str
    model: str
    frames: tuple[str, ...]
    usage: Usage
    refusals: Mapping[str, Refusal]
    models: str | None = None
    health: HealthStatus = HealthStatus.HEALTHY
    key_header: str | None = "authorization"
    key: str = KEY
    takes: frozenset[str] | None = COMMON
    thought: str = ""
    served_by: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


_NOWHERE = Refusal(status=404, body="", fault=BackendFault.NOT_FOUND, says="")


class ProviderPeer(HttpPeer):
    """A provider on loopback; `has_revoked_the_key` makes it refuse its key."""

    def __init__(self, ways: Ways) -> None:
        super().__init__()
        self.ways = ways
        self.has_revoked_the_key = False

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        refused = self._refused(exchange)
        if refused is None and exchange.method == "GET":
            await answer.json(200, {"object": "list", "data": [{"id": self.ways.model, "object": "model"}]})
        elif refused is None and not exchange.json["stream"]:
            await answer.json(200, _whole(self.ways.frames), self.ways.headers)
        elif refused is None:
            await answer.open_stream(self.ways.headers)
            for frame in self.ways.frames:
                await answer.write_chunk(frame)
            await answer.close_stream()
        else:
            await self._refuse(*refused, answer)

    def _refused(self, exchange: Exchange) -> tuple[Refusal, str] | None:
        """Return what the provider refuses a request for, with the field that it does not know."""
        ways, refusals, body = self.ways, self.ways.refusals, exchange.json
        if not self._accepts_the_key_of(exchange):
            return refusals["key"], ""
        if exchange.path != (ways.models if exchange.method == "GET" else ways.chat):
            return refusals.get("path", _NOWHERE), ""
        if exchange.method == "GET":
            return None
        if body.get("model") != ways.model:
            return refusals["model"], ""
        for name in sorted(body.keys() - (ways.takes or body.keys())):
            return refusals[name if name in refusals else "field"], name
        assert complaint_about(body) is None
        messages = cast("list[dict[str, str]]", body["messages"])
        return next(((each, "") for name, each in refusals.items() if f"[[{name}]]" in messages[-1]["content"]), None)

    def _accepts_the_key_of(self, exchange: Exchange) -> bool:
        header = self.ways.key_header
        shown = exchange.headers.get(header or "authorization")
        wanted = {None: None, "authorization": f"Bearer {self.ways.key}"}.get(header, self.ways.key)
        return not self.has_revoked_the_key and shown == wanted

    async def _refuse(self, refusal: Refusal, name: str, answer: Answer) -> None:
        if refusal.in_stream:
            await answer.open_stream()
            await answer.write_chunk(str(refusal.body))
            await answer.close_stream()
        elif isinstance(refusal.body, str):
            await answer.text(refusal.status, refusal.body, "text/plain", refusal.headers)
        else:
            body = json.dumps(refusal.body).replace(FIELD, name)
            await answer.text(refusal.status, body, "application/json", refusal.headers)


def _whole(frames: tuple[str, ...]) -> Json:
    """Return the reply that these frames are the stream of: texts joined, parts in a list, and the bill in `usage`."""
    spoken: list[object] = []
    message: Json = {"role": "assistant"}
    body: Json = {}
    for frame in frames:
        if not frame.startswith("data: {"):
            continue
        part = cast("Json", json.loads(frame.removeprefix("data: ")))
        groqs = cast("Json", part.pop("x_groq", {}))
        body |= {"usage": groqs["usage"]} if "usage" in groqs else {}
        for choice in cast("list[dict[str, Json]]", part.pop("choices")):
            delta = choice["delta"]
            spoken += [delta["content"]] if delta.get("content") else []
            for name in delta.keys() & {"reasoning", "reasoning_content"}:
                message[name] = f"{message.get(name, '')}{delta[name] or ''}"
        body |= part
    texts = [each for each in spoken if isinstance(each, str)]
    parts = [each for listed in spoken if isinstance(listed, list) for each in cast("list[object]", listed)]
    message["content"] = [*parts, {"type": "text", "text": "".join(texts)}] if parts else "".join(texts)
    return body | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def chunk(delta: Json | None = None, finish: str | None = None, **more: object) -> str:
    """Write a frame; without a delta one without choices, as the last one with the bill is."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "served", "choices": choices, **more}
    return f"data: {json.dumps(frame)}\n\n"


def counts(given: int, taken: int, **more: object) -> Json:
    return {"prompt_tokens": given, "completion_tokens": taken, "total_tokens": given + taken, **more}


def error(message: str, **more: object) -> Json:
    return {"error": {"message": message, **more}}


def googles(code: int, status: str, message: str, *details: Json) -> list[Json]:
    """Write an error as Google's compatible endpoints do: in an array."""
    said: Json = {"code": code, "message": message, "status": status}
    return [{"error": said | ({"details": list(details)} if details else {})}]


SKY, BLUE = chunk({"role": "assistant", "content": "The sky "}), chunk({"content": "is blue."})
PLAIN = (SKY, BLUE, chunk({}, "stop"))
UNKNOWN_FIELD: Json = {"extra_body": {"surprise": 1}}
