"""A server that speaks the Messages API; what it does is chosen by words in the model's name.

The words are those of the Chat Completions peer: eNNN hang slow waits drip chunksN cut nofinish drop errchunk badjson
badchunk empty nousage texts explains says tool reason refusal contextlen moderation credit leak redirect ping echo
recall repeats, where nousage is a bill of zeros. Besides:
mute (does not say the end, but why the model stopped), and those of oddities.py.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import cast

from typing_extensions import override

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from agentapi_mcp.testing.model_peers import ModelPeer
from agentapi_mcp.testing.peers import BUSY_WORDS, COUNTED, REASON, Behaviour, in_pieces
from tests.support.peers.faults import ANSWERED, HUNG_UP, Expected, faults_of
from tests.support.peers.oddities import ODD_BODIES, ODD_WORDS, odd_body, odd_end, odd_frames
from tests.support.peers.strict import complaint_about

KEY = "messages-test-0123456789abcdef"  # looks like no key: only a Redactor that knows it hides it
Json = dict[str, object]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_SAID_IN_400 = {
    "contextlen": "prompt is too long: 210000 tokens > 200000 maximum",
    "moderation": "Output blocked by content filtering policy",
    "explains": REASON,
    "credit": "Your credit balance is too low to access the Anthropic API.",
}


@dataclass(frozen=True)
class Script:
    """What one request asks the peer to do."""

    words: frozenset[str]
    model: str
    stream: bool
    question: str
    earlier: str
    key: str

    @classmethod
    def of(cls, exchange: Exchange) -> "Script":
        """Read the script from a request."""
        body = exchange.json
        model = str(body.get("model", ""))
        messages = cast("list[Json]", body.get("messages") or [{}])
        *earlier, question = [str(message.get("content", "")) for message in messages]
        words = frozenset(re.findall(r"[a-z0-9]+", model.lower()))
        key = exchange.headers.get("x-api-key") or exchange.headers.get("authorization", "").removeprefix("Bearer ")
        return cls(words, model, body.get("stream") is True, question, " ".join(earlier), key)

    def number(self, prefix: str) -> int | None:
        """Find the number behind a word."""
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
        if self.words & {"tool", "empty", "refusal"}:
            return []
        thought = ["<thi", "nk>hm</think>\n", "\n"] if "marks" in self.words else []
        count = self.number("chunks") or (1000 if "drip" in self.words else 5)
        return thought + [f"w{place} " for place in range(count)]

    @property
    def stop_reason(self) -> str:
        """Why the model stops."""
        return next((reason for word, reason in _STOPS.items() if word in self.words), "end_turn")

    @property
    def usage(self) -> Json:
        """The bill; the input is what was not cached."""
        if "nousage" in self.words:
            return {"input_tokens": 0, "output_tokens": 0}
        if "texts" in self.words:
            return {"input_tokens": str(COUNTED[0]), "output_tokens": float(COUNTED[1])}
        return {
            "input_tokens": 7,
            "output_tokens": 5,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 2,
        }


class MessagesPeer(HttpPeer):
    """The server; its errors and its list of models are Anthropic's."""

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        path, _, query = exchange.path.partition("?")
        if path.endswith("/v1/messages"):
            complaint = complaint_about(exchange.json)
            if complaint is None:
                await self._message(exchange, answer)
            else:
                await answer.json(400, self.error(400, complaint))
        elif path.endswith("/v1/models"):
            await answer.json(200, _MODELS["after_id" in query])
        else:
            await answer.json(404, self.error(404, "There is no such thing here."))

    def error(self, status: int, message: str) -> Json:
        """Write an error as this server does."""
        kind = _TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}

    async def fail(self, script: Script, exchange: Exchange, answer: Answer) -> bool:
        """Answer with a failure, where one is asked for."""
        status = script.number("e")
        said = next((text for word, text in _SAID_IN_400.items() if word in script.words), None)
        if status is not None:
            headers = {"retry-after": "2"} if status in {429, 529} else {}
            await answer.json(status, self.error(status, f"A failure of status {status}"), headers)
        elif "says" in script.words:
            await answer.json(429, self.error(429, BUSY_WORDS))
        elif said is not None:
            await answer.json(400, self.error(400, said))
        elif "leak" in script.words:
            key = exchange.headers.get("x-api-key", "")
            said = f"The key {key} is wrong, says /srv/app/keys.py\nTraceback (most recent call last)"
            await answer.json(401, self.error(401, said))
        else:
            return await _break_off(script, answer)
        return True

    async def end_with_error(self, answer: Answer) -> None:
        """Fail within a stream."""
        await say(answer, "error", error={"type": "api_error", "message": "Internal server error"})

    def streamed_usage(self, script: Script) -> Json:
        """Write the bill at a stream's end."""
        return {"output_tokens": script.usage["output_tokens"]}

    def message(self, script: Script, **fields: object) -> Json:
        """Write a message."""
        version = script.key if "repeats" in script.words else "001"
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": f"{script.model}-{version}", **fields}

    async def _message(self, exchange: Exchange, answer: Answer) -> None:
        script = Script.of(exchange)
        if await self.fail(script, exchange, answer):
            return
        if script.stream:
            await self._stream(script, answer)
        else:
            await self._whole(script, answer)

    async def _whole(self, script: Script, answer: Answer) -> None:
        if script.words & {"waits", "drip"}:
            await answer.hang()
        if "cut" in script.words:
            await answer.half()
            return
        if "byname" in script.words:
            await answer.json(200, _BY_NAME)
            return
        if "errchunk" in script.words:
            await answer.json(200, {"type": "error", "error": {"type": "api_error", "message": "Failed late"}})
            return
        content: list[Json] = [{"type": "thinking", "thinking": "hm"}] if "reason" in script.words else []
        if "tool" in script.words:
            content.append({"type": "tool_use", "id": "tool_1", "name": "get_weather", "input": {}})
        if script.pieces:
            content.append({"type": "text", "text": "".join(script.pieces)})
        stop = None if "empty" in script.words else script.stop_reason
        message = self.message(script, content=content, stop_reason=stop, usage=script.usage)
        if odd := script.words & ODD_BODIES.keys():
            await odd_body(answer, message, odd)
        else:
            await answer.json(200, message)

    async def _stream(self, script: Script, answer: Answer) -> None:
        await answer.open_stream({"request-id": "req_1"})
        if "empty" in script.words:
            await say(answer, "message_stop")
            await answer.close_stream()
            return
        started = {**self.streamed_start(script), "output_tokens": 1 if "nousage" not in script.words else 0}
        await say(answer, "message_start", message=self.message(script, content=[], usage=started))
        if "ping" in script.words:
            await say(answer, "ping")
        await _blocks_before(script, answer)
        await say(answer, "content_block_start", index=1, content_block={"type": "text", "text": ""})
        if not await self._pieces(script, answer):
            return
        await say(answer, "content_block_stop", index=1)
        if "nofinish" not in script.words:
            delta = {"stop_reason": script.stop_reason, "stop_sequence": None}
            await say(answer, "message_delta", delta=delta, usage=self.streamed_usage(script))
            if "mute" in script.words:
                await answer.hang()
            await odd_end(answer, script.words)
            await say(answer, "message_stop")
        await answer.close_stream()

    def streamed_start(self, script: Script) -> Json:
        """Write the bill at a stream's beginning."""
        return script.usage

    async def _pieces(self, script: Script, answer: Answer) -> bool:
        for place, piece in enumerate(script.pieces):
            if script.words & {"slow", "drip"}:
                await answer.step()
            if place == 3 and "cut" in script.words:
                answer.cut()
                return False
            if place == 3 and "badchunk" in script.words:
                await answer.write_chunk("event: content_block_delta\ndata: {nonsense\n\n")
            if place == 3 and "byname" in script.words:
                await answer.write_chunk(f"event: error\ndata: {json.dumps(_BY_NAME)}\n\n")
                await say(answer, "message_stop")
                await answer.close_stream()
                return False
            if place == 3 and "errchunk" in script.words:
                await self.end_with_error(answer)
                await answer.close_stream()
                return False
            delta = {"type": "text_delta", "text": piece}
            await say(answer, "content_block_delta", index=1, delta=delta)
            await odd_frames(answer, script.words)
            if "waits" in script.words:
                await answer.hang()
        return True


async def say(answer: Answer, kind: str, **fields: object) -> None:
    """Send one event of a stream."""
    await answer.write_chunk(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n")


async def _blocks_before(script: Script, answer: Answer) -> None:
    if "early" in script.words:
        await say(answer, "message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1})
    if "reason" in script.words:
        await say(answer, "content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
        await say(answer, "content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"})
        await say(answer, "content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"})
        await say(answer, "content_block_stop", index=0)
    if "tool" in script.words:
        block: Json = {"type": "tool_use", "id": "tool_1", "name": "get_weather", "input": {}}
        await say(answer, "content_block_start", index=0, content_block=block)
        await say(answer, "content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{"})
        await say(answer, "content_block_stop", index=0)


async def _break_off(script: Script, answer: Answer) -> bool:
    if "badjson" in script.words:
        await answer.text(200, "<html>not JSON</html>")
    elif "redirect" in script.words:
        await answer.text(307, "", headers={"location": "http://127.0.0.1:9/"})
    elif "hang" in script.words:
        await answer.hang()
    elif "drop" in script.words:
        answer.cut()
    else:
        return False
    return True


_STOPS = {
    "tool": "tool_use",
    "refusal": "refusal",
    "short": "max_tokens",
    "withheld": "refusal",
    "pauses": "pause_turn",
}
_BY_NAME: Json = {"message": "Slow down", "code": 429}
_MODELS: dict[bool, Json] = {
    False: {
        "data": [{"type": "model", "id": "claude-stub-1", "display_name": "Claude Stub 1"}],
        "has_more": True,
        "first_id": "claude-stub-1",
        "last_id": "claude-stub-1",
    },
    True: {
        "data": [{"type": "model", "id": "claude-stub-2", "display_name": "Claude Stub 2"}],
        "has_more": False,
        "first_id": "claude-stub-2",
        "last_id": "claude-stub-2",
    },
}

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
    Behaviour.UNCOUNTED: "nousage",
    Behaviour.FAILS_BY_NAME: "byname",
    Behaviour.ENDS_EARLY: "early-cut",
    **ODD_WORDS,
}

_FAULTS = {
    "nofinish": Expected(fault=BackendFault.STREAM_CUT, reply="w0 w1 w2 w3 w4 "),
    "badchunk": Expected(fault=BackendFault.BAD_REPLY, reply="w0 w1 w2 "),
    "refusal": Expected(fault=BackendFault.CONTENT_POLICY, billed=True),
    "credit": Expected(fault=BackendFault.PAYMENT),
    "redirect": Expected(fault=BackendFault.BAD_REPLY),
    "nousage": ANSWERED,
    "mute": ANSWERED,
    "lingers": ANSWERED,
}
# The contract's behaviours with more than their fault to them.
_WITH_MORE = {
    "e429": Expected(fault=BackendFault.RATE_LIMIT, retry_after=2),
    "e529": Expected(fault=BackendFault.OVERLOADED, retry_after=2),
    "cut": Expected(fault=BackendFault.STREAM_CUT, reply="w0 w1 w2 "),
    "errchunk": Expected(fault=BackendFault.UPSTREAM, reply="w0 w1 w2 "),
    "byname": Expected(fault=BackendFault.RATE_LIMIT, reply="w0 w1 w2 "),
}
_WHOLE = {
    "cut": Expected(fault=BackendFault.STREAM_CUT),
    "errchunk": Expected(fault=BackendFault.UPSTREAM),
    "byname": Expected(fault=BackendFault.RATE_LIMIT),
    "empty": Expected(fault=BackendFault.BAD_REPLY, billed=True, retryable=False, next_step="It was billed"),
    "nofinish": ANSWERED,
    "badchunk": ANSWERED,
}


def messages_faults(*, streams: bool) -> dict[str, Expected]:
    """Tell how a turn with each word ends, but for what a stream has billed before."""
    table = faults_of(WORDS, streams=streams) | {WORDS[Behaviour.DROPPED]: HUNG_UP} | _FAULTS | _WITH_MORE
    if not streams:
        return table | _WHOLE
    return table | {"drip": replace(table["drip"], reply=None)}  # the pieces that came in time


def messages_peer(server: HttpPeer, variant: str, model: str) -> ModelPeer:
    """Return the peer of a backend that speaks the Messages API."""
    return ModelPeer(server, {"base_url": server.origin, "api_key": KEY, "stream": variant == "streamed"}, model)
