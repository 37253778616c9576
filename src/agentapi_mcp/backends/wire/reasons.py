"""Read a provider's error in any of the shapes that providers send: its words, codes, status and waits.

The words stand under many names, within each other: in `error`, `errors`, `detail`, in MiniMax's `base_resp`, in JSON
within a text, such as OpenRouter's `error.metadata.raw`, or the body is a plain text or a page. All are read, so that
the reason is among them however many servers have passed it on.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from html import unescape

from agentapi_mcp.base.json_values import as_count, as_list, as_object, as_text, is_list, is_object, load_json

_DEEPEST, _MOST_PARTS, _MOST_WORDS = 16, 100, 8
_LONGEST_WORDS = 6_000  # characters of one text that are looked at
_WORDS = (
    *("message", "msg", "status_msg", "status_message", "error_message", "error_msg", "errorMessage", "errmsg"),
    *("error_description", "errorDescription", "faultstring", "description", "title", "reason", "Message"),
)
_WITHIN = ("error", "errors", "detail", "details", "fault", "innererror", "inner_error", "cause", "base_resp")
_CODES = ("error_type", "status", "code", "type", "reason", "Code", "__type", "error_code")
_STATUSES = ("code", "status", "statusCode", "status_code")
_WAITS = ("retry_after", "retryAfter", "retry_after_seconds", "retryAfterSeconds", "retry-after")
_WAITS_MS = ("retry_after_ms", "retryAfterMs")
# What a server says that passes on an error, or has no more to say than its status.
_SAYS_NOTHING = (  # compiled with the first error
    r"(?:http |error:? |status |code:? )*(?:\d{3}:? ?)?(?:provider returned error|bad request|unauthorized|forbidden"
    r"|not found|(?:internal )?server error|unprocessable (?:entity|content)|too many requests|bad gateway"
    r"|service unavailable|gateway time-?out|error|fail(?:ed|ure)?|unknown(?: error)?|success|ok)?[.!]?"
)
_IS_A_PAGE = re.compile(r"\s*<(?:!doctype|\?xml|html|head|body|error|title|h1|center)\b", re.IGNORECASE)
_TITLE = re.compile(r"<(title|message|h1)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_EVENT_DATA = re.compile(r"^data:(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderError:
    """A parsed provider error; None where it does not say.

    `words` begin with the innermost, `codes` (in lower case) with the outermost. `limits` are the ids of Google's
    quotas that are used up, `waits` what was said of when to retry, `headers` those of the provider behind a router.
    """

    words: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    status: int | None = None
    moderated: bool = False
    retryable: bool | None = None
    limits: tuple[str, ...] = ()
    waits: tuple[object, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def read_error(body: object) -> ProviderError:
    """Parse what a provider answered instead of an answer: JSON that was parsed, or a text."""
    reading = _Reading()
    reading.add(body)
    layers = reading.layers
    metadata = [as_object(layer.get("metadata")) for layer in layers]
    availability = [as_object(layer.get("availability")) for layer in layers]
    flags = (each.get("retryable") for each in availability)
    statuses = (_http_status(layer.get(name)) for layer in layers for name in _STATUSES)
    return ProviderError(
        words=_telling(reading.words),
        codes=tuple(_codes(layers)),
        status=next(filter(None, statuses), None),
        moderated=any("flagged_input" in each or "reasons" in each for each in metadata),
        retryable=next((flag for flag in flags if isinstance(flag, bool)), None),
        limits=tuple(_limits(layers)),
        waits=tuple(_waits([*availability, *layers, *metadata])),
        headers=_headers(metadata),
    )


class _Reading:
    """Collects the objects of an error, outermost first, and its words, innermost first, in bounds."""

    def __init__(self) -> None:
        self.layers: list[dict[str, object]] = []
        self.words: list[str] = []
        self._left = _MOST_PARTS

    def add(self, value: object, depth: int = 0, place: str = "") -> None:
        """Read a value; `place` names what its words are about."""
        if value is None or self._left <= 0 or depth > _DEEPEST:
            return
        self._left -= 1
        if isinstance(value, str):
            self._add_text(value, depth, place)
        elif is_list(value):
            for each in value:
                self.add(each, depth + 1, place)
        elif is_object(value):
            self._add_fields(value, depth, place)

    def _add_text(self, text: str, depth: int, place: str) -> None:
        inner = _json_in(text)
        if inner is not None:
            self.add(inner, depth + 1, place)
        elif said := _spoken(text):
            self.words.append(f"{place}: {said}" if place else said)

    def _add_fields(self, layer: dict[str, object], depth: int, place: str) -> None:
        self.layers.append(layer)
        own = _place_of(layer) or place
        for violation in map(as_object, as_list(layer.get("fieldViolations"))):  # Google's BadRequest
            self.add(violation, depth + 1)
        for name in _WITHIN:
            inner = layer.get(name)
            if name == "errors" and is_object(inner) and not inner.keys() & {*_WORDS, *_WITHIN}:
                for about, said in inner.items():  # fields with what is wrong with each
                    self.add(said, depth + 1, about)
            else:
                self.add(inner, depth + 1, own)
        self.add(as_object(layer.get("metadata")).get("raw"), depth + 1, own)
        if "@type" not in layer:
            for name in _WORDS:
                self.add(layer.get(name), depth + 1, own)


def _place_of(layer: Mapping[str, object]) -> str:
    """Return what an entry of a list is about: FastAPI's `loc`, or Google's `field`."""
    steps = [str(step) for step in as_list(layer.get("loc")) if isinstance(step, str | int)]
    return ".".join(steps[1:] if steps[:1] == ["body"] else steps) or as_text(layer.get("field")) or ""


def _json_in(text: str) -> object:
    """Return the JSON that a text is, or that events of a stream hold; None for any other text."""
    start = text.lstrip()[:6]
    if start.startswith(("data:", "event:", "id:")):
        return [each for data in _EVENT_DATA.findall(text) if (each := _json_in(data)) is not None] or None
    if not start.startswith(("{", "[", '"')):
        return None
    try:
        value = load_json(text, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return value if isinstance(value, str) or is_object(value) or is_list(value) else None


def _spoken(text: str) -> str:
    """Return a text as it is, and of a page its title."""
    text = text[:_LONGEST_WORDS]
    if not _IS_A_PAGE.match(text):
        return text.strip()
    titles = {name.lower(): said for name, said in _TITLE.findall(text)}
    return unescape(_TAG.sub("", titles.get("title") or titles.get("message") or titles.get("h1") or "")).strip()


def _telling(words: list[str]) -> tuple[str, ...]:
    """Drop words that say nothing beside others, and those that are part of others."""
    found: list[str] = []
    for said in words:
        if not any(said in other for other in found):
            found = [*(other for other in found if other not in said), said]
    return tuple([said for said in found if not re.fullmatch(_SAYS_NOTHING, said, re.IGNORECASE)] or found)[
        :_MOST_WORDS
    ]


def _codes(layers: list[dict[str, object]]) -> Iterator[str]:
    for layer in layers:
        status = as_count(layer.get("status_code"))
        if status and "status_msg" in layer:
            yield f"base_resp {status}"
        for code in (as_object(layer.get("metadata")).get("error_type"), *map(layer.get, _CODES)):
            if isinstance(code, str):
                yield code.rpartition("#")[2].lower()  # AWS puts a namespace before it


def _http_status(value: object) -> int | None:
    """Read a code that is the HTTP status of an error; providers have numbers of their own too, of any size."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[45]\d\d", value) else None
    number = as_count(value)
    return number if number is not None and 400 <= number <= 599 else None  # noqa: PLR2004  # the statuses of errors


def _limits(layers: list[dict[str, object]]) -> Iterator[str]:
    for layer in layers:
        for violation in map(as_object, as_list(layer.get("violations"))):
            if limit := as_text(violation.get("quotaId")) or as_text(violation.get("quotaMetric")):
                yield limit


def _waits(places: list[dict[str, object]]) -> Iterator[object]:
    for place in places:
        yield from (place[name] for name in _WAITS if name in place)
        yield from (f"{place[name]}ms" for name in _WAITS_MS if name in place)
        if "RetryInfo" in str(place.get("@type")):
            yield place.get("retryDelay")


def _headers(metadata: list[dict[str, object]]) -> dict[str, str]:
    given = (as_object(each.get("headers")) for each in metadata)
    return {
        name.lower(): str(sent) for headers in given for name, sent in headers.items() if not isinstance(sent, dict)
    }
