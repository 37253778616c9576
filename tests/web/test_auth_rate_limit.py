"""Who guesses tokens is soon refused unheard; who is in stays in, whoever else has the same address."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.auth_rate_limit import KNOWN_FOR, MOST, REMEMBERED, WITHIN, AuthRateLimit, TokenAttempt
from agentapi_mcp.web.requests import source_of
from tests.edges.mcp.test_http import ACCEPT, TOKEN, fault, message, served
from tests.support.clocks import ManualClock
from tests.web.test_oauth import open_setup

HOME = "203.0.113.9"


def guess(number: int, source: str = HOME) -> TokenAttempt:
    """Make a token that is none."""
    return TokenAttempt(source, b"guess %d" % number)


def guessed_often(clock: ManualClock, source: str = HOME) -> AuthRateLimit:
    """Refuse as many tokens of an address as it may have."""
    refused = AuthRateLimit(clock)
    for number in range(MOST):
        refused.check(guess(number, source))
        refused.refuse(guess(number, source))
    return refused


def is_limited(refused: AuthRateLimit, attempt: TokenAttempt) -> bool:
    """Tell whether this attempt is not looked at."""
    try:
        refused.check(attempt)
    except LimitExceededError:
        return True
    return False


def test_after_twenty_refusals_in_a_minute_no_token_of_the_address_is_looked_at() -> None:
    clock = ManualClock()
    refused = guessed_often(clock)
    clock.advance(timedelta(seconds=10))
    with pytest.raises(LimitExceededError) as limited:
        refused.check(guess(99))
    assert limited.value.retry_after == WITHIN - timedelta(seconds=10)
    refused.check(guess(99, "203.0.113.10"))
    clock.advance(WITHIN - timedelta(seconds=10))
    refused.check(guess(99))


def test_refusals_that_are_a_minute_apart_limit_nobody() -> None:
    clock = ManualClock()
    refused = AuthRateLimit(clock)
    limited: list[int] = []
    for number in range(3 * MOST):
        if is_limited(refused, guess(number)):
            limited.append(number)
        refused.refuse(guess(number))
        clock.advance(WITHIN / MOST)
    assert limited == []


def test_a_token_that_was_good_from_there_is_looked_at_for_an_hour() -> None:
    clock = ManualClock()
    refused, good = guessed_often(clock), TokenAttempt(HOME, b"good")
    with pytest.raises(LimitExceededError):
        refused.check(good)
    refused.accept(good)
    refused.check(good)
    with pytest.raises(LimitExceededError):
        guessed_often(clock, "203.0.113.10").check(TokenAttempt("203.0.113.10", b"good"))
    clock.advance(KNOWN_FOR)
    for number in range(MOST):
        refused.refuse(guess(number))
    with pytest.raises(LimitExceededError):
        refused.check(good)


def test_a_token_that_was_good_and_is_no_more_counts_as_any_other() -> None:
    refused, good = guessed_often(ManualClock()), TokenAttempt(HOME, b"good")
    refused.accept(good)
    refused.refuse(good)
    with pytest.raises(LimitExceededError):
        refused.check(good)


def test_a_token_that_has_expired_counts_for_itself_alone() -> None:
    clock = ManualClock()
    refused, expired = AuthRateLimit(clock), TokenAttempt(HOME, b"expired")
    for _ in range(MOST):
        refused.check(expired)
        refused.refuse(expired, was_good=True)
    with pytest.raises(LimitExceededError):
        refused.check(expired)
    refused.check(guess(1))
    refused.check(TokenAttempt("203.0.113.10", b"expired"))
    clock.advance(WITHIN)
    refused.check(expired)


async def test_an_address_has_ten_new_tokens_verified_at_once_and_the_rest_see_their_refusals() -> None:
    limit, all_wait = AuthRateLimit(ManualClock()), asyncio.Event()
    verified: list[TokenAttempt] = []

    async def verify(attempt: TokenAttempt) -> None:
        with suppress(LimitExceededError):
            async with limit.verifying(attempt):
                verified.append(attempt)
                await all_wait.wait()
                limit.refuse(attempt)

    async def look() -> list[TokenAttempt]:
        all_wait.set()
        return list(verified)

    elsewhere = guess(0, "203.0.113.10")
    async with asyncio.TaskGroup() as group:
        for attempt in (*map(guess, range(4 * MOST)), elsewhere):
            group.create_task(verify(attempt))
        at_once = group.create_task(look())  # tasks start in this order, so every attempt is verified or waits by now
    assert at_once.result() == [*map(guess, range(10)), elsewhere]
    assert len(verified) == MOST + 1


def test_no_more_addresses_are_remembered_than_said() -> None:
    refused = guessed_often(ManualClock())
    for number in range(REMEMBERED - 1):
        refused.refuse(guess(0, f"address {number}"))
    with pytest.raises(LimitExceededError):
        refused.check(guess(99))
    refused.refuse(guess(0, "one more"))
    refused.check(guess(99))


def test_no_more_good_tokens_are_remembered_than_said() -> None:
    refused, first = guessed_often(ManualClock()), TokenAttempt(HOME, b"first")
    refused.accept(first)
    for number in range(REMEMBERED - 1):
        refused.accept(guess(number))
    refused.check(first)
    refused.accept(guess(REMEMBERED))
    with pytest.raises(LimitExceededError):
        refused.check(first)


@pytest.mark.parametrize(
    ("client", "source"),
    [
        (("203.0.113.9", 1), "203.0.113.9"),
        (("::ffff:203.0.113.9", 1), "203.0.113.9"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::9", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (("unknown", 1), "unknown"),
        (None, ""),
    ],
)
def test_an_address_is_one_of_ipv4_or_a_network_of_ipv6(client: object, source: str) -> None:
    assert source_of({"type": "http", "client": client}) == source


async def test_who_guesses_is_told_to_wait_and_who_is_in_stays_in(edge_home: Path) -> None:
    clock = ManualClock()
    async with served(edge_home, WebOptions(token=TOKEN, clock=clock)) as (_, _, http):

        async def ask(headers: dict[str, str], path: str = "/mcp") -> httpx2.Response:
            return await http.post(path, json=message("ping"), headers=ACCEPT | headers)

        bearer = {"authorization": f"Bearer {TOKEN}"}
        for _ in range(MOST + 1):  # what every client does at first, and what any web page can make a browser do
            assert (await ask({})).status_code == 401
            assert (await ask({}, "/mcp?token=x")).status_code == 401
        for number in range(MOST):
            assert (await ask({"authorization": f"Bearer guess-{number}"})).status_code == 401
        for headers in ({"authorization": "Bearer guess"}, {"authorization": "Basic guess"}, bearer):
            limited = await ask(headers)
            assert (limited.status_code, limited.headers["retry-after"]) == (429, "60")
            assert "Too many tokens" in fault(limited)
        assert (await ask({})).status_code == 401
        clock.advance(WITHIN)
        assert (await ask(bearer)).status_code == 200
        for number in range(MOST):
            assert (await ask({"authorization": f"Bearer guess-{number}"})).status_code == 401
        assert (await ask({"authorization": "Bearer guess"})).status_code == 429
        assert (await ask(bearer)).status_code == 200


async def test_an_access_token_is_not_verified_once_its_address_has_guessed(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient(timeout=25) as http:

        async def ask(token: str) -> int:
            headers = ACCEPT | {"authorization": f"Bearer {token}"}
            return (await http.post(at.place.mcp, json=message("ping"), headers=headers)).status_code

        known, fresh = at.token("ann"), at.token("bo")
        assert await ask(known) == 200
        for number in range(MOST):
            assert await ask(f"a.b.{number}") == 401
        assert [await ask(known), await ask(fresh), await ask("a.b.c")] == [200, 429, 429]


async def test_guesses_that_are_sent_together_are_counted_too(edge_home: Path) -> None:
    async with served(edge_home, WebOptions(token=TOKEN)) as (_, _, http):

        async def ask(token: str) -> int:
            headers = ACCEPT | {"authorization": f"Bearer {token}"}
            return (await http.post("/mcp", json=message("ping"), headers=headers)).status_code

        async with asyncio.TaskGroup() as group:
            guesses = [group.create_task(ask(f"agentapi_pat_{number}")) for number in range(4 * MOST)]
            good = [group.create_task(ask(TOKEN)) for _ in range(3)]
        statuses = [task.result() for task in guesses]
        assert statuses.count(401) + statuses.count(429) == 4 * MOST
        assert statuses.count(401) < 2 * MOST
        assert {task.result() for task in good} <= {200, 429}
