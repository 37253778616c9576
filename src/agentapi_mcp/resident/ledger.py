"""What a bridge remembers of its client's requests, for when the server behind it ends."""

from _thread import allocate_lock
from collections.abc import Iterator

Key = tuple[type, object]  # of a request id: 1 and "1" are two, and Python takes True for 1
Fields = dict[str, object]

# Requests that change nothing, or nothing more when they come again.
SAFE = frozenset(
    (
        *("ping", "initialize", "server/discover", "tools/list", "prompts/list", "prompts/get", "completion/complete"),
        *("resources/list", "resources/read", "resources/templates/list", "resources/subscribe"),
        *("resources/unsubscribe", "subscriptions/listen", "logging/setLevel", "tasks/get"),
    )
)
# Tools that only read (tests/resident/test_ledger.py compares them with the annotations).
READING_TOOLS = frozenset(
    (
        *("get_health", "get_organization", "get_preferences", "get_transcript", "get_turn", "get_usage"),
        *("list_agents", "list_budgets", "list_models", "list_sessions"),
    )
)
_LISTEN = "subscriptions/listen"
# What lasts as long as the conversation, and asks for nothing now.
_STANDING = frozenset(("initialize", "logging/setLevel", "resources/subscribe", _LISTEN))


class Request:  # no dataclass or tuple with names: the modules for them cost 10 ms
    """A request without an answer: its line, and which of those sent to the server that was."""

    __slots__ = ("id", "line", "may_repeat", "method", "number", "tool")

    def __init__(self, request_id: str | int, method: str, params: Fields, line: bytes, number: int) -> None:
        self.id = request_id
        self.method = method
        self.tool = params.get("name") if method == "tools/call" else None
        self.line = line
        self.number = number
        self.may_repeat = _may_repeat(method, params)


class Ledger:
    """The open requests of a client, and what a new server must hear before them; safe for two threads."""

    def __init__(self) -> None:
        self._gate = allocate_lock()
        self._unread: list[tuple[bytes, int]] = []
        self._open: dict[Key, Request] = {}
        self._hello: dict[str, bytes] = {}
        self._subscribed: dict[str, bytes] = {}
        self._swallowed: set[Key] = set()
        self._reopened: set[Key] = set()
        self._sent = 0

    def sent(self, line: bytes) -> None:
        """Note a line that is sent now; it is read later, since the server is what should not wait."""
        with self._gate:
            self._sent += 1
            self._unread.append((line, self._sent))

    def read(self) -> None:
        """Read what was noted."""
        with self._gate:
            self._read()

    def swallow(self, line: bytes) -> None:
        """Keep from the client the answer to a request that it has been answered already."""
        fields = _fields(line)
        with self._gate:
            self._swallowed.add(_key(fields.get("id")))

    def passes(self, line: bytes) -> bool:
        """Note a line of the server's; return False if the client must not see it."""
        key = _answered(line)
        with self._gate:
            if key is not None:
                self._read()
                self._open.pop(key, None)
                if key in self._swallowed:
                    self._swallowed.discard(key)
                    return False
            elif self._reopened and b"subscriptions/acknowledged" in line:
                return not self._is_acknowledged_again(line)
        return True

    def is_request(self, line: bytes) -> bool:
        """Whether a line asks for something."""
        fields = _fields(line)
        return "id" in fields and "method" in fields

    def lost(self, read: int | None, *, was_stopped: bool) -> list[Request]:
        """Take out what the server may have begun and must not begin again, and return it.

        `read` is how many lines the server has read, if it said so. A server that was stopped is not started for what
        it had read already.
        """
        with self._gate:
            self._read()
            begun = [each for each in self._open.values() if read is None or each.number <= read]
            lost = [each for each in begun if not (each.may_repeat and (not was_stopped or _is_standing(each)))]
            for request in lost:
                del self._open[_key(request.id)]
            return lost

    def has_unread(self, read: int | None) -> bool:
        """Whether the server has not read something that was asked of it."""
        with self._gate:
            return read is not None and any(each.number > read for each in self._open.values())

    def is_awaited(self) -> bool:
        """Whether the client waits for an answer: one to what it has been answered already does not count."""
        with self._gate:
            self._read()
            return any(key not in self._swallowed for key in self._open)

    def restart(self) -> list[bytes]:
        """Return what a new server must hear: how the conversation began, and what is open."""
        with self._gate:
            self._read()
            waiting, self._open = list(self._open.values()), {}
            lines = list(self._prelude({_key(each.id) for each in waiting}))
            self._sent = len(lines)
            for request in waiting:
                if _is_standing(request) and request.line in lines:
                    request.number = 0
                    self._open[_key(request.id)] = request
                else:
                    self._repeat(request)
                    lines.append(request.line)
            return lines

    def refuse_all(self) -> list[Request]:
        """Return the open requests, which will not be answered."""
        with self._gate:
            self._read()
            refused, self._open = list(self._open.values()), {}
            return refused

    def _repeat(self, request: Request) -> None:
        self._sent += 1
        request.number = self._sent
        self._open[_key(request.id)] = request
        if request.method == _LISTEN:
            self._reopened.add(_key(request.id))

    def _prelude(self, open_keys: set[Key]) -> Iterator[bytes]:
        for line in (*self._hello.values(), *self._subscribed.values()):
            key = _key(_fields(line).get("id"))
            if key[1] is not None and key not in open_keys:
                self._swallowed.add(key)
            yield line

    def _is_acknowledged_again(self, line: bytes) -> bool:
        meta = _object(_object(_fields(line).get("params")).get("_meta"))
        key = _key(meta.get("io.modelcontextprotocol/subscriptionId"))
        is_again = key in self._reopened
        self._reopened.discard(key)
        return is_again

    def _read(self) -> None:
        """Read the lines that were noted; the gate is held."""
        unread, self._unread = self._unread, []
        for line, number in unread:
            self._note(line, number, _fields(line))

    def _note(self, line: bytes, number: int, fields: Fields) -> None:
        method, params, key = fields.get("method"), _object(fields.get("params")), _key(fields.get("id"))
        if not isinstance(method, str):
            return
        if method in {"initialize", "notifications/initialized", "logging/setLevel"}:
            self._hello[method] = line
        elif method == "resources/subscribe":
            self._subscribed[str(params.get("uri"))] = line
        elif method == "resources/unsubscribe":
            self._subscribed.pop(str(params.get("uri")), None)
        elif method == "notifications/cancelled":
            self._open.pop(_key(params.get("requestId")), None)
        if isinstance(key[1], str | int) and key[0] is not bool:
            self._open[key] = Request(key[1], method, params, line, number)


def _is_standing(request: Request) -> bool:
    return request.method in _STANDING


def _may_repeat(method: str, params: Fields) -> bool:
    if method != "tools/call":
        return method in SAFE
    if params.get("name") in READING_TOOLS:
        return True
    # The same key gets the same turn (docs/turns.md).
    return params.get("name") == "chat" and isinstance(_object(params.get("arguments")).get("idempotency_key"), str)


def _key(request_id: object) -> Key:
    if isinstance(request_id, str):
        return str, request_id.encode("utf-8", "replace").decode()  # without lone surrogates, as the server answers
    return type(request_id), request_id if isinstance(request_id, int) else None


def _answered(line: bytes) -> Key | None:
    """Return the id of the request that a line of the SDK's answers, which has the id as its second member."""
    start = b'{"jsonrpc":"2.0","id":'
    if not line.startswith(start):
        return None
    text = line[len(start) :]
    number = text[: text.find(b",")]
    if number.isdigit():
        key: Key | None = (int, int(number))
        rest = text[len(number) :]
    else:
        import json  # noqa: PLC0415  # 8 ms, and most clients count

        try:
            value, end = json.JSONDecoder().raw_decode(text.decode("utf-8", "replace"))
        except ValueError:
            return None
        key, rest = _key(value), text.decode("utf-8", "replace")[end:].encode()
    return key if rest.startswith((b',"result":', b',"error":')) else None


def _fields(line: bytes) -> Fields:
    """Parse a line as the server does: what is no UTF-8 is replaced, and no other encoding is guessed."""
    import json  # noqa: PLC0415  # 8 ms, after the first line is on its way

    try:
        return _object(json.loads(line.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return {}


def _object(value: object) -> Fields:
    if not isinstance(value, dict):
        return {}
    return value  # pyright: ignore[reportUnknownVariableType]  # `typing`, which has `cast`, costs 6 ms
