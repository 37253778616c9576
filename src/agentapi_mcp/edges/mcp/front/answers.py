"""Answers that the build knows: those that are the same for everybody, for one version and its toolsets.

They are kept in `answers.json`, which `make front` writes from what the server answers, as the SDK serializes it.
"""

import json
import zlib
from os.path import dirname, join

from agentapi_mcp import __version__
from agentapi_mcp.edges.mcp.front.messages import (
    Members,
    has_envelope,
    has_plain_meta,
    is_initialize,
    is_request,
    is_to_resources_alone,
    params_of,
    parse,
)

FILE = join(dirname(__file__), "answers.json")  # noqa: PTH118, PTH120  # pathlib is imported in 11 ms
CHANGED = b'{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}\n'
_DEFAULT = "core"
_ACKNOWLEDGED = '"notifications/subscriptions/acknowledged"', ',"notifications":{"resourcesListChanged":true}'
_TOLD = '"notifications/resources/list_changed"', ""


class Answer:
    """What goes to the client, and what is owed for it.

    `forwarded`: the server must read the request as well, before any other; its own answer is dropped. `changed`: the
    client must be told by `CHANGED` that the list was not the whole, once the server is there. `instead`, if there is
    any: the line acknowledges a subscription, which the server must read in its turn; this takes the place of the
    server's acknowledgement, the same line.
    """

    __slots__ = ("changed", "forwarded", "instead", "line")

    def __init__(self, line: bytes, *, forwarded: bool = False, changed: bool = False, instead: bytes = b"") -> None:
        self.line = line
        self.forwarded = forwarded
        self.changed = changed
        self.instead = instead


class Front:
    """Answers requests of one client, as long as the server would answer the same."""

    def __init__(self, handshakes: dict[str, str], newest: str, results: dict[str, dict[str, str]]) -> None:
        self._handshakes = handshakes
        self._newest = newest
        self._results = results
        self._era: str | None = None
        self._is_initialized = False
        self._has_listed_resources = False
        self._has_subscribed = False
        self._has_given_up = False

    @classmethod
    def load(cls, toolsets: str | None, prefix: str | None = None) -> "Front | None":
        """Read the answers of this version for toolsets as AGENTAPI_TOOLSETS names them; None if there are none.

        With a prefix of the tools there are none: the server lists them.
        """
        if prefix:
            return None
        try:
            with open(FILE, "rb") as file:  # noqa: PTH123  # pathlib is imported in 11 ms
                return cls._of(parse_answers(file.read()), toolsets)
        except (OSError, ValueError, LookupError, RecursionError):
            return None

    @classmethod
    def _of(cls, answers: Members, toolsets: str | None) -> "Front":
        handshakes = _texts(answers, "initialize")
        newest = _text(answers, "newest")
        if newest not in handshakes:
            raise ValueError("there is no answer of the newest revision")
        names = {_DEFAULT} if toolsets is None else {name.strip() for name in toolsets.split(",") if name.strip()}
        results = {era: _results(_object(answers, era), names) for era in ("handshake", "modern")}
        return cls(handshakes, newest, results)

    def answer(self, line: bytes) -> Answer | None:
        """Answer a line; None if the server must. Lines have to be given in the client's order, all of them."""
        if self._has_given_up:
            return None
        message = parse(line)
        answer = None if message is None else self._answered(message)
        if answer is None and (message is None or self._era is None or message.get("method") == "initialize"):
            # What the server makes of this line decides how it answers all that follow.
            self._has_given_up = True
        return answer

    def _answered(self, message: Members) -> Answer | None:
        method = message.get("method")
        if method == "notifications/initialized":
            self._is_initialized = True
        if not isinstance(method, str) or not is_request(message):
            return None
        if method == "initialize":
            return self._initialize(message)
        params = params_of(message)
        era = "modern" if has_envelope(params) else "handshake"
        if method == "subscriptions/listen" and era == self._era == "modern":
            return self._subscribe(message, params)
        if params.keys() <= {"_meta"} and (era == "modern" or has_plain_meta(params)):
            answer = self._listed(message, method, era)
            if answer is not None:
                return answer
        if self._era is None and era == "modern":
            self._era = era  # the server reads this request itself before any other
        return None

    def _initialize(self, message: Members) -> Answer | None:
        params = params_of(message)
        if self._era is not None or not is_initialize(params):
            return None
        self._era = "handshake"
        revision = params["protocolVersion"]
        known = isinstance(revision, str) and revision in self._handshakes
        return _answer(message, self._handshakes[str(revision) if known else self._newest], forwarded=True)

    def _subscribe(self, message: Members, params: Members) -> Answer | None:
        if self._has_subscribed or not is_to_resources_alone(params):
            return None
        self._has_subscribed = True
        return Answer(_streamed(message, *_ACKNOWLEDGED), instead=_streamed(message, *_TOLD))

    def _listed(self, message: Members, method: str, era: str) -> Answer | None:
        # The first request decides the era of a connection, so the server has to see it; only `initialize` opens that
        # of the handshake (MCP 2026-07-28, basic/versioning).
        is_opening = self._era is None and era == "modern"
        result = self._results[era].get(method)
        if result is None or not (is_opening or self._era == era):
            return None
        if method == "resources/list":
            # Only who is told of a change may be given less than there is.
            is_told = self._has_subscribed if era == "modern" else self._is_initialized
            if self._has_listed_resources or not is_told:
                return None
            self._has_listed_resources = True
        self._era = era
        return _answer(message, result, forwarded=is_opening, changed=method == "resources/list" and era == "handshake")


def parse_answers(text: bytes) -> Members:
    """Return the answers in the file.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    file: object = json.loads(text, object_hook=Members)
    if not isinstance(file, Members) or file.get("version") != __version__:
        raise ValueError("these are not the answers of this version")
    answers = _object(file, "answers")
    if file.get("checksum") != checksum(answers):
        raise ValueError("the answers are damaged")
    return answers


def checksum(answers: Members) -> int:
    """Return what tells a damaged file; it does not protect against who may write to the package."""
    return zlib.crc32(json.dumps(answers, sort_keys=True).encode())


def _results(era: Members, toolsets: set[str]) -> dict[str, str]:
    results = {name: value for name, value in era.items() if isinstance(value, str)}
    tools = _object(era, "tools/list")
    listed = _object(tools, "toolsets")
    if not toolsets or toolsets - listed.keys():
        raise ValueError("there is no such toolset")
    chosen = ",".join(_text(listed, name) for name in listed if name in toolsets)
    return {**results, "tools/list": _text(tools, "begin") + chosen + _text(tools, "end")}


def _answer(message: Members, result: str, *, forwarded: bool, changed: bool = False) -> Answer:
    key = json.dumps(message["id"], ensure_ascii=False)
    line = f'{{"jsonrpc":"2.0","id":{key},"result":{result}}}\n'
    return Answer(line.encode(), forwarded=forwarded, changed=changed)


def _streamed(message: Members, method: str, more: str) -> bytes:
    """Return a notification on the stream that a request for a subscription opens."""
    key = json.dumps(message["id"], ensure_ascii=False)
    meta = f'{{"io.modelcontextprotocol/subscriptionId":{key}}}'
    return f'{{"jsonrpc":"2.0","method":{method},"params":{{"_meta":{meta}{more}}}}}\n'.encode()


def _object(members: Members, name: str) -> Members:
    value = members[name]
    if not isinstance(value, Members):
        raise ValueError(f"{name} is no object")  # noqa: TRY004  # of a file, not of a caller
    return value


def _text(members: Members, name: str) -> str:
    value = members[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")  # noqa: TRY004  # of a file, not of a caller
    return value


def _texts(members: Members, name: str) -> dict[str, str]:
    values = _object(members, name)
    return {each: _text(values, each) for each in values}
