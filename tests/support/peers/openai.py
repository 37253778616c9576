"""A peer that speaks Chat Completions, as OpenRouter (`/api/v1`), Google (`/v1beta/openai`) and others (`/v1`) do.

Azure's deployments (`/openai/deployments/stub`) refuse what has no `api-version`, or no key in `api-key`.

What it does is chosen by words in the model's name, or by `[[word]]` in the last paragraph of the last message:

    eNNN             that HTTP status              hang          says nothing
    slow             a step for each of 100 pieces drip          comments without end, one per step
    waits            one piece, then nothing       chunksN megabytesN  N pieces; N of a megabyte each
    cut, nofinish    breaks off after 3 pieces     drop          closes without an answer
    errchunk         an error after 3 pieces       err200        an error in a reply whose status is 200
    badjson badchunk nonsense                      empty         no choices
    nousage          no bill                       nodone cutlate  no [DONE]; breaks off before the bill
    zeros texts      a bill of zeros; its counts as text and float
    explains says    refuses with the reason deep within; says in words when to come back
    picky old        refuses stream_options; refuses max_tokens
    orcomment        three comments first          commentsN     N comments first, one per step
    tool reason      a tool call; reasoning first  later final   OpenRouter says when to come back, or not to
    recall           repeats the earlier messages  repeats       repeats the key
     stops_WORD       ends with this finish_reason  filtered      withheld by a filter
     contextlen moderation quota typed leak redirect huge echo
     short withheld pauses  why it stops            marks         reasoning in the text first
     lingers          holds the stream open         byname        an error by the name of its event alone
     babbles failsafter     nonsense, an error after the answer    odd  frames that mean nothing in between

Run by itself it prints its port: python -m tests.support.peers.openai --port 4010
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from typing_extensions import override

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer, Pace, Ticks
from agentapi_mcp.testing.model_peers import ModelPeer
from agentapi_mcp.testing.peers import BUSY_WORDS, COUNTED, REASON, Behaviour, Peer, in_pieces
from tests.support.peers.cases import BuiltInCase
from tests.support.peers.faults import ANSWERED, HUNG_UP, Expected, faults_of
from tests.support.peers.oddities import ODD_BODIES, ODD_WORDS, odd_body, odd_end, odd_frames
from tests.support.peers.strict import complaint_about

KEY = "openrouter-test-0123456789abcdef"  # looks like no key: only a Redactor that knows it hides it
Json = dict[str, object]


class Flavour(StrEnum):
    """Whose dialect is spoken, by the path."""

    OPENROUTER = "/api/v1/"
    AZURE = "/openai/deployments/stub/"
    GOOGLE = "/v1beta/openai/"
    PLAIN = "/v1/"


@dataclass(frozen=True)
class Script:
    """What one request asks the peer to do."""

    words: frozenset[str]
    flavour: Flavour
    model: str
    stream: bool
    question: str
    earlier: str
    key: str

    @classmethod
    def of(cls, exchange: Exchange) -> "Script":
        """Read the script from a request."""
        body = exchange.json
        *earlier, question = _texts(body) or [""]
        model = str(body.get("model", ""))
        words = re.findall(r"[a-z0-9]+", model.lower())
        said = re.findall(r"\[\[([\w-]+)\]\]", question.rpartition("\n\n")[2])
        words += [word for each in said for word in each.split("-")]
        flavour = next((flavour for flavour in Flavour if flavour.value in exchange.path), Flavour.PLAIN)
        key = _key_of(exchange)
        return cls(frozenset(words), flavour, model, body.get("stream") is True, question, " ".join(earlier), key)

    def number(self, prefix: str) -> int | None:
        """Find the number behind a word, as in `chunks7`."""
        found = (re.fullmatch(rf"{prefix}(\d+)", word) for word in self.words)
        return next((int(match[1]) for match in found if match), None)

    @property
    def pieces(self) -> list[str]:
        """The answer, piece by piece."""
        if "echo" in self.words:
            return [f"{word} " for word in self.question.split()]
        if "repeats" in self.words:
            return in_pieces(self.key)
        if "recall" in self.words:
            return [f"{word} " for word in self.earlier.split()]
        usual = 100 if "slow" in self.words else 5
        if megabytes := self.number("megabytes"):
            return [f"megabyte {place:>6} of {megabytes:<6}\n" * 40_000 for place in range(megabytes)]
        count = self.number("chunks")
        thought = ["<thi", "nk>hm</think>\n", "\n"] if "marks" in self.words else []
        return thought + [f"w{place} " for place in range(usual if count is None else count)]

    @property
    def finish(self) -> str:
        """Why the model stops: what follows `stops_` in a word, or what fits the answer."""
        chosen = next((word.removeprefix("stops_") for word in self.words if word.startswith("stops_")), None)
        return chosen or next((finish for word, finish in _FINISHES.items() if word in self.words), "stop")

    @property
    def usage(self) -> Json:
        """The bill."""
        if "zeros" in self.words:
            return dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens", "cost"), 0)
        if "texts" in self.words:
            return {"prompt_tokens": str(COUNTED[0]), "completion_tokens": float(COUNTED[1])}
        bill: Json = {
            "prompt_tokens": 11,
            "completion_tokens": 5,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
        return bill | ({"cost": 0.00014} if self.flavour is Flavour.OPENROUTER else {})

    def body(self, **fields: object) -> Json:
        """Make what every part of a reply has."""
        upstream = {"provider": "Stub Cloud"} if self.flavour is Flavour.OPENROUTER else {}
        model = f"{self.model}-{self.key if 'repeats' in self.words else '001'}"
        return {"id": "chatcmpl-1", "created": 1_760_000_000, "model": model, **upstream, **fields}


class OpenAIPeer(HttpPeer):
    """The server; `limit_remaining` is what its OpenRouter key has left."""

    def __init__(self, *, port: int = 0, pace: Pace | None = None) -> None:
        super().__init__(port=port, pace=pace)
        self.limit_remaining: float | None = 7.5
        self.has_models = True

    @property
    def openrouter_url(self) -> str:
        """The base URL under which it speaks as OpenRouter."""
        return f"{self.origin}/api/v1"

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        path, _, query = exchange.path.partition("?")
        if path.startswith("/openai/") and (refusal := _azures_refusal(exchange, query)):
            await answer.json(*refusal)
        elif path.endswith("/chat/completions"):
            await self._complete(exchange, answer)
        elif path == "/api/v1/key":
            await answer.json(200, {"data": {"label": "stub", "limit": 10, "limit_remaining": self.limit_remaining}})
        elif path.endswith("/models") and "/deployments/" not in path and self.has_models:
            await answer.json(200, {"object": "list", "data": _MODELS})
        else:
            await answer.json(404, {"error": {"message": "There is no such thing here.", "type": "not_found"}})

    async def _complete(self, exchange: Exchange, answer: Answer) -> None:
        complaint = complaint_about(exchange.json)
        if complaint is not None:
            await answer.json(400, {"error": {"message": complaint, "type": "invalid_request_error"}})
            return
        script = Script.of(exchange)
        if await _fail(script, exchange, answer):
            return
        if script.stream:
            await _stream(script, answer)
        else:
            await _whole(script, answer)


def _azures_refusal(exchange: Exchange, query: str) -> tuple[int, Json] | None:
    if "api-version=" not in query:
        return 404, {"error": {"code": "404", "message": "Resource not found"}}
    if not exchange.headers.get("api-key") and _key_of(exchange) in {"", KEY}:  # what is no key is a token
        return 401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}
    return None


def _key_of(exchange: Exchange) -> str:
    return exchange.headers.get("api-key") or exchange.headers.get("authorization", "").removeprefix("Bearer ")


async def _fail(script: Script, exchange: Exchange, answer: Answer) -> bool:
    status = script.number("e")
    special = next((word for word in _SPECIAL_ERRORS if word in script.words), None)
    if status is not None:
        headers = {"retry-after": "2"} if status in {429, 503, 529} else {}
        await answer.json(status, _error(script.flavour, status), headers)
    elif "explains" in script.words:
        await answer.json(400, _EXPLAINED[script.flavour])
    elif special is not None:
        await answer.json(*_SPECIAL_ERRORS[special])
    elif plain := next((word for word in _PLAIN_REPLIES if word in script.words), None):
        status, body, headers = _PLAIN_REPLIES[plain]
        await answer.text(status, body, headers=headers)
    elif "leak" in script.words:
        key = _key_of(exchange)
        said = f"The key {key} is wrong, says /srv/app/keys.py\nTraceback"
        await answer.json(401, {"error": {"message": said, "code": "invalid_api_key"}})
    elif "hang" in script.words:
        await answer.hang()
    elif "drop" in script.words:
        answer.cut()
    else:
        return False
    return True


async def _whole(script: Script, answer: Answer) -> None:
    if "waits" in script.words or "drip" in script.words:
        await answer.hang()
    for _ in script.pieces if "slow" in script.words else ():
        await answer.step()
    if "cut" in script.words:
        await answer.half()
        return
    if "byname" in script.words:
        await answer.json(200, _BY_NAME)
        return
    choice = {"index": 0, "message": _message(script), "finish_reason": script.finish}
    body = script.body(choices=[] if "empty" in script.words else [choice])
    if "errchunk" in script.words:
        body["error"] = {"code": 502, "message": "Provider disconnected unexpectedly"}
    if "nousage" not in script.words:
        body["usage"] = script.usage
    if odd := script.words & ODD_BODIES.keys():
        await odd_body(answer, body, odd)
        return
    await answer.json(200, body, {"x-generation-id": "gen-1", "set-cookie": "who=me; Path=/"})


def _message(script: Script) -> Json:
    message: Json = {"role": "assistant", "content": "".join(script.pieces)}
    if "filtered" in script.words:
        message["content"] = None
    if "reason" in script.words:
        message["reasoning_content"] = "think think"
    if "tool" in script.words:
        message |= {"content": None, "tool_calls": [_tool_call('{"city":"Paris"}')]}
    return message


async def _stream(script: Script, answer: Answer) -> None:
    await answer.open_stream({"x-generation-id": "gen-1"} if script.flavour is Flavour.OPENROUTER else {})
    await _beginning(script, answer)
    if not await _pieces(script, answer):
        return
    if "nofinish" not in script.words:
        if "empty" not in script.words:
            await answer.write_chunk(_event(script, {}, script.finish))
        if "cutlate" in script.words:
            answer.cut()
            return
        if "nousage" not in script.words:
            await answer.write_chunk(f"data: {json.dumps(script.body(choices=[], usage=script.usage))}\n\n")
        await odd_end(answer, script.words)
        if "nodone" not in script.words:
            await answer.write_chunk("data: [DONE]\n\n")
    await answer.close_stream()


async def _beginning(script: Script, answer: Answer) -> None:
    if "orcomment" in script.words:
        await answer.write_chunk(": OPENROUTER PROCESSING\n\n" * 3)
    if "early" in script.words:
        await answer.write_chunk(_event(script, {"content": ""}, "stop"))
    comments = script.number("comments") or 0
    while "drip" in script.words or comments > 0:
        await answer.step()
        await answer.write_chunk(": OPENROUTER PROCESSING\n\n")
        comments -= 1


async def _pieces(script: Script, answer: Answer) -> bool:
    if "reason" in script.words:
        await answer.write_chunk(_event(script, {"reasoning_content": "think "}))
        await answer.write_chunk(_event(script, {"reasoning": "think"}))
    if "tool" in script.words:
        for part in ("", '{"city"', ':"Paris"}'):
            await answer.write_chunk(_event(script, {"tool_calls": [_tool_call(part, first=not part)]}))
    silent = script.words & {"tool", "filtered", "empty"}
    for place, piece in enumerate([] if silent else script.pieces):
        if "slow" in script.words:
            await answer.step()
        if place == 3 and not await _third_piece(script, answer):
            return False
        await answer.write_chunk(_event(script, {"content": piece}))
        await odd_frames(answer, script.words)
        if "waits" in script.words:
            await answer.hang()
    return True


async def _third_piece(script: Script, answer: Answer) -> bool:
    if "cut" in script.words:
        answer.cut()
    elif "nofinish" in script.words:
        await answer.close_stream()
    elif "badchunk" in script.words:
        await answer.write_chunk("data: {nonsense\n\n")
        await answer.close_stream()
    elif "byname" in script.words:
        await answer.write_chunk(f"event: error\ndata: {json.dumps(_BY_NAME)}\n\ndata: [DONE]\n\n")
        await answer.close_stream()
    elif "errchunk" in script.words:
        error = {"code": 502, "message": "Provider disconnected", "metadata": {"error_type": "provider_unavailable"}}
        choices = [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]
        await answer.write_chunk(f"data: {json.dumps(script.body(error=error, choices=choices))}\n\n")
        await answer.close_stream()
    else:
        return True
    return False


def _event(script: Script, delta: Json, finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps(script.body(object='chat.completion.chunk', choices=[choice]))}\n\n"


def _tool_call(arguments: str, *, first: bool = True) -> Json:
    if not first:
        return {"index": 0, "function": {"arguments": arguments}}
    return {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def _error(flavour: Flavour, status: int) -> object:
    message = f"Stub failure {status}"
    if flavour is Flavour.OPENROUTER:
        return {"error": {"code": status, "message": message, "metadata": {"provider_name": "Stub Cloud"}}}
    if flavour is Flavour.GOOGLE:
        error: Json = {"code": status, "message": message, "status": _GOOGLE_STATUS.get(status, "INTERNAL")}
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12s"}
        return [{"error": error | ({"details": [retry]} if status == 429 else {})}]
    kinds = {401: "invalid_request_error", 429: "requests", 500: "server_error"}
    return {"error": {"message": message, "type": kinds.get(status, "api_error"), "param": None, "code": None}}


def _texts(body: Mapping[str, object]) -> list[str]:
    messages = body.get("messages")
    return [str(each.get("content", "")) for each in cast(list[Json], messages)] if isinstance(messages, list) else []


_FINISHES = {
    "tool": "tool_calls",
    "filtered": "content_filter",
    "short": "length",
    "withheld": "content_filter",
    "pauses": "pause_turn",
}
_BY_NAME: Json = {"message": "Slow down", "code": 429}
_GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
_TOO_LONG = "This model's maximum context length is 8192 tokens, but you asked for 9000."
_SPECIAL_ERRORS: dict[str, tuple[int, Json]] = {
    "contextlen": (400, {"error": {"message": _TOO_LONG, "type": "invalid_request_error"}}),
    "moderation": (403, {"error": {"code": 403, "message": "Flagged", "metadata": {"reasons": ["violence"]}}}),
    "quota": (429, {"error": {"message": "You have no quota left.", "code": "insufficient_quota"}}),
    "picky": (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
    "old": (400, {"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}}),
    "says": (429, {"error": {"message": BUSY_WORDS, "type": "requests", "code": None}}),
    "err200": (200, {"error": {"code": 502, "message": "Upstream is away"}}),
    "typed": (500, {"error": {"code": 500, "message": "Slow", "metadata": {"error_type": "rate_limit_exceeded"}}}),
    "final": (503, {"error": {"code": 503, "message": "No", "availability": {"retryable": False}}}),
    "later": (503, {"error": {"code": 503, "message": "No", "availability": {"retryable": True, "retry_after": 7}}}),
}
_EXPLAINED: dict[Flavour, object] = {
    Flavour.OPENROUTER: {
        "error": {
            "code": 400,
            "message": "Provider returned error",
            "metadata": {"provider_name": "xAI", "raw": json.dumps({"code": "Client error", "error": REASON})},
        }
    },
    # As the content filter of Azure is: the outer words say little.
    Flavour.AZURE: {
        "error": {
            "message": "The request was refused.",
            "code": "400",
            "innererror": {"code": "InvalidRequest", "message": REASON},
        }
    },
    Flavour.GOOGLE: [{"error": {"code": 400, "message": REASON, "status": "INVALID_ARGUMENT"}}],
    Flavour.PLAIN: {"detail": [{"type": "value_error", "loc": ["body", "messages"], "msg": REASON, "input": []}]},
}
_PLAIN_REPLIES: dict[str, tuple[int, str, dict[str, str]]] = {
    "badjson": (200, "<html>not JSON</html>", {}),
    "redirect": (307, "", {"location": "http://127.0.0.1:9/"}),
    "huge": (200, "x" * 40_000_000, {}),
}
_MODELS: list[Json] = [{"id": "stub-1", "object": "model", "owned_by": "stub"}]

WORDS: dict[Behaviour, str] = {
    Behaviour.ANSWERS: "chunks3",
    Behaviour.RECALLS: "recall",
    Behaviour.WAITS: "waits",
    Behaviour.HANGS: "hang",
    Behaviour.DRIPS: "drip",
    Behaviour.CUT: "cut",
    Behaviour.DROPPED: "drop",
    Behaviour.NONSENSE: "badjson",
    Behaviour.EMPTY: "empty",
    Behaviour.BAD_REQUEST: "e400",
    Behaviour.UNAUTHORIZED: "e401",
    Behaviour.NO_CREDIT: "e402",
    Behaviour.FORBIDDEN: "e403",
    Behaviour.UNKNOWN_MODEL: "e404",
    Behaviour.BUSY: "e429",
    Behaviour.BROKEN: "e500",
    Behaviour.BAD_GATEWAY: "e502",
    Behaviour.UNAVAILABLE: "e503",
    Behaviour.OVERLOADED: "e529",
    Behaviour.TOO_LONG: "contextlen",
    Behaviour.MODERATED: "moderation",
    Behaviour.FAILS_LATE: "errchunk",
    Behaviour.LEAKS: "leak",
    Behaviour.REPEATS: "repeats",
    Behaviour.EXPLAINS: "explains",
    Behaviour.SAYS_WHEN: "says",
    Behaviour.COUNTS_IN_TEXT: "texts",
    Behaviour.UNCOUNTED: "zeros",
    Behaviour.FAILS_BY_NAME: "byname",
    Behaviour.ENDS_EARLY: "early-cut",
    **ODD_WORDS,
}


# What the peer does beside the behaviours of the contract.
_FAULTS = {
    "nofinish": Expected(fault=BackendFault.STREAM_CUT, reply="w0 w1 w2 "),
    "badchunk": Expected(fault=BackendFault.BAD_REPLY, reply="w0 w1 w2 "),
    "filtered": Expected(fault=BackendFault.CONTENT_POLICY, billed=True),
    "err200": Expected(fault=BackendFault.UPSTREAM),
    "redirect": Expected(fault=BackendFault.BAD_REPLY),
    "huge": Expected(fault=BackendFault.BAD_REPLY),
    "typed": Expected(fault=BackendFault.RATE_LIMIT),
    "quota": Expected(fault=BackendFault.PAYMENT),
    "final": Expected(fault=BackendFault.OVERLOADED, retryable=False),
    "later": Expected(fault=BackendFault.OVERLOADED, retry_after=7),
    "nodone": ANSWERED,
    "cutlate": ANSWERED,
    "nousage": ANSWERED,
}
# Errors of the contract's behaviours with more than their fault to them.
_WITH_MORE = {
    "e429": Expected(fault=BackendFault.RATE_LIMIT, retry_after=2),
    "e503": Expected(fault=BackendFault.OVERLOADED, retry_after=2),
    "e529": Expected(fault=BackendFault.OVERLOADED, retry_after=2),
    "empty": Expected(fault=BackendFault.BAD_REPLY, billed=True, retryable=False, next_step="It was billed"),
    "cut": Expected(fault=BackendFault.STREAM_CUT, reply="w0 w1 w2 "),
    "errchunk": Expected(fault=BackendFault.UPSTREAM, reply="w0 w1 w2 "),
    "byname": Expected(fault=BackendFault.RATE_LIMIT, reply="w0 w1 w2 "),
}
_WHOLE = {
    "cut": Expected(fault=BackendFault.STREAM_CUT),
    "byname": Expected(fault=BackendFault.RATE_LIMIT),
    "errchunk": Expected(fault=BackendFault.UPSTREAM, billed=True),
    "nofinish": ANSWERED,
    "badchunk": ANSWERED,
}
_GOOGLE = {"e429": Expected(fault=BackendFault.RATE_LIMIT, retry_after=12)}  # what the body says beats the header


_QUERIES = {"azure": "?api-version=2024-10-21"}


class OpenAICase:
    """Runs the contract suite streamed and whole, and as four providers."""

    kind = "openai"
    variants = ("openrouter-streamed", "openrouter-whole", "plain-streamed", "google-whole", "azure-streamed")
    words: Mapping[Behaviour, str] = WORDS
    answer = "w0 w1 w2 "
    not_applicable: Mapping[Behaviour, str] = {}
    unreachable: str | None = None
    bills_refusals: str | None = None
    secrets = (KEY,)

    def in_pieces(self, variant: str) -> bool:
        """Tell by the variant's name."""
        return variant.endswith("-streamed")

    def faults(self, variant: str) -> Mapping[str, Expected]:
        """Tell the faults of Chat Completions."""
        streams = self.in_pieces(variant)
        table = faults_of(WORDS, streams=streams) | {WORDS[Behaviour.DROPPED]: HUNG_UP} | _FAULTS | _WITH_MORE
        return table | ({} if streams else _WHOLE) | (_GOOGLE if variant.startswith("google") else {})

    @asynccontextmanager
    async def start(self, variant: str) -> AsyncGenerator[Peer]:
        """Start the provider."""
        provider, _, mode = variant.partition("-")
        async with OpenAIPeer(pace=Ticks(0.02)) as peer:
            given = {
                "base_url": peer.origin + Flavour[provider.upper()].value.rstrip("/") + _QUERIES.get(provider, ""),
                "api_key": KEY,
                "provider": provider,
                "stream": mode == "streamed",
            }
            yield ModelPeer(peer, given, "stub/{}")


CASE: BuiltInCase = OpenAICase()


async def _serve(port: int, seconds: float) -> None:
    async with OpenAIPeer(port=port, pace=Ticks(seconds)) as peer:
        sys.stdout.write(f"{peer.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted, printing the port first."""
    parser = argparse.ArgumentParser(description="A provider that speaks Chat Completions, for tests and trials.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--step", type=float, default=0.2, help="seconds between the steps of a slow answer")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(cast(int, arguments.port), cast(float, arguments.step)))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
