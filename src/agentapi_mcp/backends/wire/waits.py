"""Read when a provider may be asked again, wherever it says so.

In the order of preference, since what was said of this failure is more exact than what holds for the account:

1. the body: `retry_after` in all its spellings, and Google's `RetryInfo`;
2. headers that OpenRouter passes on within the body, then those of the reply: `retry-after-ms`, `x-ms-retry-after-ms`,
   `retry-after`, and the same from LiteLLM (`llm_provider-…`);
3. the words: "try again in 2.5s";
4. of a limited rate alone, when the limit is reset: `x-ratelimit-reset-…` and its kin, passed on or of the reply.

A wait may be a number of seconds, a duration ("6m0s", "120ms"), a date, or a time since 1970 in seconds or
milliseconds. One that is negative, in the past or longer than a week is ignored.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime

from agentapi_mcp.base.json_values import as_amount

_LONGEST = timedelta(days=7)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_A_DATE = 10**9  # from here on, a number of seconds is one since 1970
_IN_MILLISECONDS = 10**11  # and from here on, one of milliseconds
_NUMBER = r"\d+(?:\.\d+)?"
_UNITS: dict[str, str] = {
    "milliseconds": r"ms|millis(?:econds?)?",
    "days": r"d|days?",
    "hours": r"h|hrs?|hours?",
    "minutes": r"m|mins?|minutes?",
    "seconds": r"s|secs?|seconds?",
}
# These are compiled where they are needed, as most programs are never told to wait.
_PART = "|".join(rf"({_NUMBER})\s*(?:{names})(?![a-z])" for names in _UNITS.values())
_ANY_UNIT = "|".join(_UNITS.values())
_DURATION = rf"{_NUMBER}\s*(?:{_ANY_UNIT})(?![a-z])(?:(?:,|\s|and)*{_NUMBER}\s*(?:{_ANY_UNIT})(?![a-z]))*"
# "6m0s" has no space between its parts, so that a unit may be followed by a digit.
_IN_WORDS = (
    rf"(?:try(?:ing)?(?: again)?|retry(?:ing)?|wait|come back|available again|resets?)"
    rf"(?: again)?(?: in| after| for| at least| about| approximately|:)* ({_DURATION})"
)
_HEADERS = (
    ("retry-after-ms", "ms"),
    ("x-ms-retry-after-ms", "ms"),
    ("retry-after", ""),
    ("llm_provider-retry-after-ms", "ms"),
    ("llm_provider-retry-after", ""),
)
_LONGEST_NAME = 100  # of such a header
_RESETS = re.compile(r"(?:[\w-]+-)?ratelimit-(?:reset(?:-[\w-]+)?|[\w-]+-reset)")


def read_wait(said: object, now: datetime) -> timedelta | None:
    """Read one wait; None if it is none, or not plausible."""
    text = str(said).strip()
    number = as_amount(text)
    try:
        wait = _text(text, now) if number is None else _number(number, now)
    except (ValueError, ArithmeticError):  # of a date far away too, and of a number that no Decimal holds
        return None
    return wait if timedelta(0) <= wait <= _LONGEST else None


def wait_of(
    said: Iterable[object],
    words: str,
    passed_on: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    is_limited: bool,
) -> timedelta | None:
    """Return the best wait that a provider states: `said` in its error's fields, its words, or its headers.

    `passed_on` are headers within the error, with names in lower case; `is_limited` means that it was its rate.
    """
    now = _now(headers)
    waits = [read_wait(value, now) for value in said]
    waits += [read_wait(f"{sent}{unit}", now) for source in (passed_on, headers) for sent, unit in _retries(source)]
    if found := re.search(_IN_WORDS, words, re.IGNORECASE):
        waits.append(read_wait(found[1], now))
    if is_limited:
        waits += [_reset(passed_on, now), _reset(headers, now)]
    known = [wait for wait in waits if wait is not None]
    # Zero says little, and much where nothing else is said.
    return next(filter(None, known), known[0] if known else None)


def _retries(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((sent, unit) for name, unit in _HEADERS if (sent := headers.get(name, "").strip()))


def _reset(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Return when the limits are reset that are used up, or else when all are."""
    resets = {name.lower(): read_wait(sent, now) for name, sent in headers.items() if _is_reset(name)}
    known = {name: wait for name, wait in resets.items() if wait is not None}
    used_up = [wait for name, wait in known.items() if headers.get(name.replace("reset", "remaining")) == "0"]
    return max(used_up or known.values(), default=None)


def _is_reset(name: str) -> bool:
    # In a longer name, the search would take the square of its length.
    return len(name) <= _LONGEST_NAME and _RESETS.fullmatch(name.lower()) is not None


def _now(headers: Mapping[str, str]) -> datetime:
    """Return the provider's time, by which its dates are meant, or else ours."""
    try:
        return parsedate_to_datetime(headers.get("date", "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.now(UTC)


def _number(number: Decimal, now: datetime) -> timedelta:
    if number >= _IN_MILLISECONDS:
        number /= 1000
    if number >= _A_DATE:
        return _EPOCH + timedelta(seconds=float(number)) - now
    return timedelta(seconds=float(number))


def _text(said: str, now: datetime) -> timedelta:
    if re.fullmatch(_DURATION, said, re.IGNORECASE):
        parts = (dict(zip(_UNITS, found, strict=True)) for found in re.findall(_PART, said, re.IGNORECASE))
        return sum((_part(part) for part in parts), timedelta(0))
    date = datetime.fromisoformat(said) if said[:4].isdigit() else parsedate_to_datetime(said)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)) - now


def _part(numbers: Mapping[str, str]) -> timedelta:
    """Return the duration of the one unit whose number is there."""
    return next(timedelta(**{unit: float(number)}) for unit, number in numbers.items() if number)
