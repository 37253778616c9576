"""When a provider may be asked again, wherever it says so."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.backends.wire.waits import read_wait
from tests.support.hostile import TEXTS

FAULTS = FaultReader(provider="stub", redactor=Redactor())
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATE = {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}
WEEK = timedelta(days=7)


def wait(body: object = None, status: int = 429, /, **headers: str) -> float | None:
    """Return the seconds to wait after a reply that was sent at the beginning of 2026."""
    sent = DATE | {name.replace("_", "-").replace("llm-", "llm_"): value for name, value in headers.items()}
    found = FAULTS.of_reply(status, sent, body).retry_after
    return None if found is None else found.total_seconds()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("1.5", 1.5),
        (" 7 ", 7),
        ("0", 0),
        ("1s", 1),
        ("120ms", 0.12),
        ("6m0s", 360),
        ("8m12.3s", 492.3),
        ("1h2m3.5s", 3723.5),
        ("1 minute 30 seconds", 90),
        ("1 hour, 5 minutes and 3 secs", 3903),
        ("2 days", 172_800),
        ("1d", 86_400),
        ("2 mins", 120),
        ("2500 millis", 2.5),
        ("2500 milliseconds", 2.5),
        ("Thu, 01 Jan 2026 00:00:10 GMT", 10),
        ("2026-01-01T00:00:10Z", 10),
        ("2026-01-01T01:00:10.5+01:00", 10.5),
        ("2026-01-01T00:00:10", 10),
        ("1767225607", 7),  # seconds since 1970
        ("1767225607000", 7),  # milliseconds
        # Not plausible
        ("-5", None),
        ("604800", 604_800),
        ("604801", None),
        ("8d", None),
        ("1e999999", None),
        ("Wed, 31 Dec 2025 23:59:59 GMT", None),
        ("2025-12-31T23:59:59Z", None),
        ("1767225599", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("soon", None),
        ("12 parsecs", None),
        ("", None),
        ("NaN", None),
    ],
)
def test_a_wait_has_many_forms_and_implausible_ones_are_ignored(said: str, seconds: float | None) -> None:
    assert read_wait(said, NOW) == (None if seconds is None else timedelta(seconds=seconds))
    assert wait(retry_after=said) == seconds
    assert wait({"error": {"retry_after": said}}) == seconds


@pytest.mark.parametrize("said", [None, True, [1], {"seconds": 1}, float("inf")])
def test_what_is_no_wait_is_none(said: object) -> None:
    assert read_wait(said, NOW) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"retry_after_ms": "2500"},
        {"x_ms_retry_after_ms": "2500"},
        {"llm_provider-retry-after": "2.5"},
        {"llm_provider-retry-after-ms": "2500.0"},
        {"retry_after": "2.5s"},
        {"x_ratelimit_reset": "2.5s"},
        {"x_ratelimit_reset_requests": "2.5s"},
        {"X_RateLimit_Reset_Tokens": "2500ms"},
        {"ratelimit_reset": "2.5"},
        {"anthropic_ratelimit_tokens_reset": "2026-01-01T00:00:02.5Z"},
        {"llm_provider-x-ratelimit-reset-requests": "2.5s"},
    ],
)
def test_every_header_that_says_when_is_read(headers: dict[str, str]) -> None:
    assert wait(None, **headers) == 2.5


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"availability": {"retry_after": 2.5}}},
        {"error": {"metadata": {"retry_after_seconds": 2.5}}},
        {"error": {"message": "busy", "retryAfterMs": 2500}},
        {"retry_after": "2.5"},
        [{"error": {"details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "2.5s"}]}}],
        {"error": {"metadata": {"headers": {"Retry-After": "2.5"}}}},
        {"error": {"metadata": {"headers": {"X-RateLimit-Reset": 1767225602500}}}},
        {"error": {"message": "Rate limit reached for x. Please try again in 2.5s. Visit us."}},
        {"error": {"message": "Quota exceeded.\nPlease retry in 2.5s."}},
        {"error": {"message": "Please retry after 2.5 seconds."}},
        {"error": {"message": "Please wait for 2.5 s before the next request"}},
        {"error": {"metadata": {"raw": '{"error": {"message": "try again in 2500ms"}}'}}},
        "try again in 2.5s",
    ],
)
def test_every_place_of_the_body_that_says_when_is_read(body: object) -> None:
    assert wait(body) == 2.5


def test_what_was_said_of_this_failure_comes_first() -> None:
    own = {"error": {"message": "try again in 4s", "retry_after": 1, "metadata": {"headers": {"retry-after": "2"}}}}
    passed_on = {"error": {"message": "try again in 4s", "metadata": {"headers": {"Retry-After": "2"}}}}
    words = {"error": {"message": "try again in 4s", "metadata": {"headers": {"X-RateLimit-Reset": "6s"}}}}
    headers = {"retry_after_ms": "2500", "retry_after": "3", "x_ratelimit_reset": "5s"}
    assert wait(own, **headers) == 1
    assert wait(passed_on, **headers) == 2
    assert wait(words, **headers) == 2.5
    assert wait(words, retry_after="3", x_ratelimit_reset="5s") == 3
    assert wait(words, x_ratelimit_reset="5s") == 4
    assert wait({"error": {"metadata": {"headers": {"X-RateLimit-Reset": "6s"}}}}, x_ratelimit_reset="5s") == 6
    assert wait(None, x_ratelimit_reset="5s") == 5
    assert wait({"error": {"message": "try again in 4s"}}, retry_after="0") == 4
    assert wait({"error": {"retry_after": -1}}, retry_after="soon", x_ratelimit_reset="5s") == 5


@pytest.mark.parametrize(
    "name", ["retry_after", "retryAfter", "retry_after_seconds", "retryAfterSeconds", "retry-after"]
)
def test_every_name_of_a_wait_is_read(name: str) -> None:
    assert wait({"error": {name: 2.5}}) == 2.5
    assert wait({"error": {"metadata": {name: "2.5s"}}}) == 2.5


@pytest.mark.parametrize(
    "words",
    [
        "Retrying in 9 s",
        "The limit resets in 9s.",
        "Try again in about 9 seconds",
        "Come back in approximately 9 secs",
        "Wait at least 9 sec",
        "Retry after: 9s",
        "It is available again in 9 s",
    ],
)
def test_the_words_that_say_when_have_many_forms(words: str) -> None:
    assert wait({"error": {"message": words}}) == 9


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 31 Dec 9999 23:59:59 -2359"])
def test_a_date_that_cannot_be_read_hides_no_wait(date: str) -> None:
    assert wait(None, date=date, retry_after="9") == 9


def test_no_wait_is_one_where_nothing_else_is_said() -> None:
    assert wait({"error": {"retry_after": "soon"}}, retry_after="0") == 0
    assert wait({"error": {"retry_after": "soon"}}) is None


def test_the_provider_need_not_say_what_time_it_is() -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    found = FAULTS.of_reply(429, {"retry-after": format_datetime(at, usegmt=True)}, None).retry_after
    assert found is not None
    assert timedelta(minutes=50) < found < timedelta(minutes=70)


def test_the_limit_that_is_used_up_says_when() -> None:
    resets = {"x_ratelimit_reset_requests": "1h", "x_ratelimit_reset_tokens": "2s"}
    assert wait(None, **resets) == 3600  # whichever it was
    assert wait(None, **resets, x_ratelimit_remaining_tokens="0", x_ratelimit_remaining_requests="9") == 2
    assert wait(None, anthropic_ratelimit_tokens_reset="2s", anthropic_ratelimit_requests_reset="9s") == 9


def test_limits_say_nothing_of_other_failures() -> None:
    assert wait(None, 500, x_ratelimit_reset="5s") is None
    assert wait(None, 500, retry_after="3") == 3
    assert wait(None, 400, retry_after="3") is None


@given(TEXTS | st.floats() | st.integers() | st.from_regex(r"\A[\d .]{1,8}[a-z]{1,4}[\d .]{0,8}[a-z]{0,4}\Z"))
@example(67_768_036_191_676_796_000)
@example("1" * 400)
@example("9" * 400 + "s")
@example("9999-12-31T23:59:59-23:59")
def test_a_wait_of_any_form_is_at_most_a_week_or_none(said: float | str) -> None:
    found = read_wait(said, NOW)
    assert found is None or timedelta(0) <= found <= WEEK
