"""Read the usage of an answer in the forms of all providers: counts of tokens, and OpenRouter's cost.

A count that is absent, negative, fractional or of another type is unknown, and makes no other count unknown. Zero is
unknown where it cannot be true: no request has zero input tokens, and no answer of some text has zero output tokens.
Servers send zeros at the start of a stream, or because they do not count.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from agentapi_mcp.base.json_values import as_amount, as_object
from agentapi_mcp.core.backends.events import Usage, UsageReported

# Tokens or dollars; a larger number is an error. One of any size would take long to convert, or overflow in a sum.
_MOST = 10**12

Path = tuple[str, ...]

_HOUR: Path = ("cache_creation", "ephemeral_1h_input_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """The names of one API's counts; the first of some paths that is there counts.

    `beside` are input tokens that `input` does not include; `reasoning_is_beside` says that of `output`. `written` are
    those that were written to a cache, `written_for_1h` those of them that are kept for an hour.
    """

    input: str
    output: str
    cached: tuple[Path, ...]
    reasoning: tuple[Path, ...]
    written: tuple[Path, ...] = ()
    written_for_1h: tuple[Path, ...] = ()
    beside: tuple[str, ...] = ()
    reasoning_is_beside: bool = False


_FORMS = (
    # Chat Completions; the last names of `cached` are those of DeepSeek, LiteLLM and Kimi, those of `written` those of
    # OpenRouter and LiteLLM.
    _Form(
        input="prompt_tokens",
        output="completion_tokens",
        cached=(
            ("prompt_tokens_details", "cached_tokens"),
            ("prompt_cache_hit_tokens",),
            ("cache_read_input_tokens",),
            ("cached_tokens",),
        ),
        reasoning=(("completion_tokens_details", "reasoning_tokens"), ("reasoning_tokens",)),
        written=(("prompt_tokens_details", "cache_write_tokens"), ("cache_creation_input_tokens",)),
        written_for_1h=(_HOUR,),
    ),
    # The Messages API, which counts beside the input what was read from the cache or written to it; and Responses,
    # which has the names, and no tokens beside.
    _Form(
        input="input_tokens",
        output="output_tokens",
        cached=(("input_tokens_details", "cached_tokens"), ("cache_read_input_tokens",)),
        reasoning=(("output_tokens_details", "reasoning_tokens"), ("output_tokens_details", "thinking_tokens")),
        written=(("cache_creation_input_tokens",), ("input_tokens_details", "cache_write_tokens")),
        written_for_1h=(_HOUR,),
        beside=("cache_read_input_tokens", "cache_creation_input_tokens"),
    ),
    # Gemini
    _Form(
        input="promptTokenCount",
        output="candidatesTokenCount",
        cached=(("cachedContentTokenCount",),),
        reasoning=(("thoughtsTokenCount",),),
        beside=("toolUsePromptTokenCount",),
        reasoning_is_beside=True,
    ),
    # the Droid CLI
    _Form(
        input="inputTokens",
        output="outputTokens",
        cached=(("cacheReadTokens",),),
        reasoning=(("thinkingTokens",),),
        written=(("cacheCreationTokens",),),
        beside=("cacheReadTokens", "cacheCreationTokens"),
    ),
)


def count_of(value: object) -> int | None:
    """Return a count that came as an integer, a float without fraction, or the text of one."""
    if isinstance(value, float):
        value = Decimal(value)
    amount = as_amount(value)
    if amount is None or amount > _MOST or amount != amount.to_integral_value():
        return None
    return int(amount)


def usage_in(body: Mapping[str, object]) -> object:
    """Return the usage of a reply, or of a part of a streamed one; None if it has none."""
    usage = body.get("usage")
    if not usage and "x_groq" in body:
        usage = as_object(body["x_groq"]).get("usage")
    if not usage and "usageMetadata" in body:
        usage = body["usageMetadata"]
    return usage


class UsageMeter:
    """The usage of one answer, from all its reports.

    A later count replaces an earlier one, since counts are cumulative; but a zero does not, nor does null.
    """

    def __init__(self, *, has_cost: bool = False) -> None:
        self._has_cost = has_cost
        self._counts: dict[str, object] = {}
        self._usage = Usage()

    @property
    def is_read(self) -> bool:
        """Whether anything of the usage is known."""
        return self._usage != Usage()

    def add(self, usage: object, *, is_empty: bool = False) -> Iterator[UsageReported]:
        """Take a report, and yield the usage if that changes it.

        `is_empty` says that the answer has ended without any output, so that zero output tokens are true.
        """
        reported = as_object(usage)
        if not reported:
            return
        for name, value in reported.items():
            if value is not None and not (count_of(value) == 0 and self._counts.get(name)):
                self._counts[name] = value
        read = read_usage(self._counts, has_cost=self._has_cost, is_empty=is_empty)
        if read != self._usage:
            self._usage = read
            yield UsageReported(read)


def read_usage(counts: Mapping[str, object], *, has_cost: bool = False, is_empty: bool = False) -> Usage:
    """Read a usage; `has_cost` means that its `cost` is in US dollars, `is_empty` that zero output tokens are true."""
    form = _form_of(counts)
    given = count_of(counts.get(form.input))
    output, reasoning = count_of(counts.get(form.output)), _first(counts, form.reasoning)
    if output is not None and given:
        output += _hidden_output(counts, form, given + output, reasoning)
    beside = [count_of(counts[name]) for name in form.beside if counts.get(name) is not None]
    total = None if given is None or None in beside else given + sum(filter(None, beside))
    into, out = total or None, output if output or is_empty else None
    return Usage(
        input_tokens=into,
        output_tokens=out,
        cached_tokens=_counted(_first(counts, form.cached), into),
        reasoning_tokens=_counted(reasoning, out),
        cost_usd=_cost(counts, is_placeholder=total == 0) if has_cost else None,
        cache_write_tokens=_counted(_first(counts, form.written), into),
        cache_write_1h_tokens=_counted(_first(counts, form.written_for_1h), into),
    )


def _counted(part: int | None, whole: int | None) -> int | None:
    """Return the count of a part; a zero beside an unknown count comes from a server that does not count."""
    return part or (None if whole is None else part)


def _form_of(counts: Mapping[str, object]) -> _Form:
    """Return the form of a usage: some servers send the names of two, and zeros in one of them."""
    counted = (form for form in _FORMS if count_of(counts.get(form.input)))
    named = (form for form in _FORMS if form.input in counts or form.output in counts)
    return next(counted, None) or next(named, _FORMS[0])


def _hidden_output(counts: Mapping[str, object], form: _Form, shown: int, reasoning: int | None) -> int:
    """Return the billed output that `output` does not include: reasoning, by xAI and Google.

    xAI counts it beside `completion_tokens`, and Gemini's compatible endpoint only within `total_tokens`.
    """
    if form.reasoning_is_beside:
        return reasoning or 0
    total = count_of(counts.get("total_tokens"))
    more = 0 if total is None else total - shown
    if more <= 0 or form is not _FORMS[0]:
        return 0
    return more if more == reasoning or (reasoning is None and not _first(counts, form.cached)) else 0


def _first(counts: Mapping[str, object], paths: tuple[Path, ...]) -> int | None:
    for path in paths:
        value: object = counts
        for name in path:
            value = as_object(value).get(name)
        if value is not None:
            return count_of(value)
    return None


def _cost(counts: Mapping[str, object], *, is_placeholder: bool) -> Decimal | None:
    """Return what an answer costs in all.

    With a key of one's own at OpenRouter, `cost` is its fee alone, and the provider bills the rest.
    https://openrouter.ai/docs/use-cases/usage-accounting
    """
    cost = _dollars(counts.get("cost"))
    upstream = _dollars(as_object(counts.get("cost_details")).get("upstream_inference_cost"))
    if cost is None or (not cost and is_placeholder):
        return None
    if counts.get("is_byok") is True:
        return None if upstream is None else cost + upstream
    # Nothing to pay here and something there: whose key was used is not said.
    return None if not cost and upstream and "is_byok" not in counts else cost


def _dollars(value: object) -> Decimal | None:
    amount = as_amount(value)
    return amount if amount is not None and amount <= _MOST else None
