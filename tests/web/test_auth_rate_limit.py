"""Who guesses tokens has to wait; a valid one is taken, whoever guesses behind the same address."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import ascii_letters, digits

import httpx2
import pytest

from agentapi_mcp.base.errors import LimitExceededError, TokenFlaw
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.access.personal_tokens import PREFIX
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.auth_rate_limit import MOST, REMEMBERED, WITHIN, AuthRateLimit, TokenAttempt
from agentapi_mcp.web.requests import source_of
from tests.edges.mcp.test_http import ACCEPT, TOKEN, fault, message, served
from tests.support.clocks import ManualClock
from tests.support.peers.issuer import SigningKey, forged_with_public_key, unsigned
from tests.web.test_oauth import KEY, OWN, RESOURCE, ServerSetup, open_setup

HOME, FORGED = "203.0.113.9", TokenFlaw.FORGED


def guess(number: int, source: str = HOME) -> TokenAttempt:
    """Make a token that is none."""
    return TokenAttempt(source, b"guess %d" % number)


def guessed_often(clock: ManualClock, source: str = HOME) -> AuthRateLimit:
    """Refuse as many tokens of an address as it may have."""
    refused = AuthRateLimit(clock)
    for number in range(MOST):
        refused.refuse(guess(number, source), FORGED)
    return refused


def is_limited(refused: AuthRateLimit, attempt: TokenAttempt, flaw: TokenFlaw = FORGED) -> bool:
    """Tell whether this refused token is one too many."""
    try:
        refused.refuse(attempt, flaw)
    except LimitExceededError:
        return True
    return False


def test_after_twenty_refusals_in_a_minute_further_ones_of_the_address_have_to_wait() -> None:
    clock = ManualClock()
    refused = guessed_often(clock)
    clock.advance(timedelta(seconds=10))
    with pytest.raises(LimitExceededError) as limited:
        refused.refuse(guess(99), FORGED)
    assert limited.value.retry_after == WITHIN - timedelta(seconds=10)
    refused.refuse(guess(99, "203.0.113.10"), FORGED)
    clock.advance(WITHIN - timedelta(seconds=10))
    refused.refuse(guess(99), FORGED)  # what had to wait did not count


def test_refusals_that_are_a_minute_apart_limit_nobody() -> None:
    clock = ManualClock()
    refused = AuthRateLimit(clock)
    limited: list[int] = []
    for number in range(3 * MOST):
        if is_limited(refused, guess(number)):
            limited.append(number)
        clock.advance(WITHIN / MOST)
    assert limited == []


def test_a_token_that_has_ended_counts_for_itself_alone() -> None:
    clock = ManualClock()
    refused, expired = AuthRateLimit(clock), TokenAttempt(HOME, b"expired")
    for _ in range(MOST):
        refused.refuse(expired, TokenFlaw.ENDED)
    assert is_limited(refused, expired, TokenFlaw.ENDED)
    assert not is_limited(refused, TokenAttempt(HOME, b"another"), TokenFlaw.ENDED)
    assert not is_limited(refused, guess(1))
    assert not is_limited(refused, TokenAttempt("203.0.113.10", b"expired"), TokenFlaw.ENDED)
    clock.advance(WITHIN)
    assert not is_limited(refused, expired, TokenFlaw.ENDED)


def test_a_token_of_a_trusted_issuer_that_is_not_for_here_counts_for_nothing() -> None:
    refused, other = AuthRateLimit(ManualClock()), TokenAttempt(HOME, b"other")
    assert not any(is_limited(refused, other, TokenFlaw.UNSUITABLE) for _ in range(2 * MOST))
    assert not is_limited(refused, guess(1))


def test_no_more_addresses_are_remembered_than_said() -> None:
    refused = guessed_often(ManualClock())
    for number in range(REMEMBERED - 1):
        refused.refuse(guess(0, f"address {number}"), FORGED)
    assert is_limited(refused, guess(99))
    refused.refuse(guess(0, "one more"), FORGED)
    assert not is_limited(refused, guess(99))


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


async def test_who_guesses_is_told_to_wait_and_the_servers_own_token_is_taken(edge_home: Path) -> None:
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
        for headers in ({"authorization": "Bearer guess"}, {"authorization": "Basic guess"}):
            limited = await ask(headers)
            assert (limited.status_code, limited.headers["retry-after"]) == (429, "60")
            assert "Too many tokens" in fault(limited)
        assert (await ask({})).status_code == 401
        assert (await ask(bearer)).status_code == 200
        clock.advance(WITHIN)
        assert (await ask({"authorization": "Bearer guess"})).status_code == 401


OTHER, UNTRUSTED = SigningKey("one"), SigningKey("two")
# Each wrong part of a token, as the n-th of many, with the status once many were refused: what anybody could make up
# has to wait, and what a trusted issuer has signed is told that it is not valid.
WRONG: Mapping[str, tuple[Callable[[ServerSetup, int], str], int]] = {
    "nonsense": (lambda _at, n: f"a.b.{n}", 429),
    "signature": (lambda at, n: f"{at.token('ann').rpartition('.')[0]}.{n:08}", 429),
    "signed content": (lambda at, n: _with_claims_of(at.token("ann"), at.token(f"eve-{n}")), 429),
    "key": (lambda at, n: OTHER.sign(_claims(at, n)), 429),
    "key id": (lambda at, n: KEY.sign(_claims(at, n), kid=f"unknown-{n}"), 429),
    "untrusted key": (lambda at, n: UNTRUSTED.sign(_claims(at, n)), 429),
    "algorithm": (lambda at, n: forged_with_public_key(KEY, _claims(at, n)), 429),
    "no algorithm": (lambda at, n: unsigned(_claims(at, n)), 429),
    "type": (lambda at, n: KEY.sign(_claims(at, n), typ="logout+jwt"), 429),
    "issuer": (lambda at, n: at.token(f"eve-{n}", iss="https://evil.example"), 429),
    "check digits": (lambda _at, n: f"{PREFIX}{n:049}", 429),
    "unknown personal token": (lambda _at, n: _made_up(n), 429),
    "audience": (lambda at, n: at.token(f"eve-{n}", aud="https://other.example"), 401),
    "subject": (lambda at, n: at.token("", name=f"eve-{n}"), 401),
    "time": (lambda at, n: at.token(f"eve-{n}", exp="tomorrow"), 401),
    "not yet": (lambda at, n: at.token(f"eve-{n}", nbf=datetime.now(UTC).timestamp() + 3600), 401),
    "expired": (lambda at, n: at.token(f"eve-{n}", exp=1), 401),
}


def _claims(at: ServerSetup, number: int) -> dict[str, object]:
    until = datetime.now(UTC).timestamp() + 300
    return {"iss": at.issuer.issuer, "sub": f"eve-{number}", "aud": RESOURCE, "exp": until}


def _with_claims_of(token: str, other: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{other.split('.')[1]}.{signature}"


def _made_up(number: int) -> str:
    """Make a personal token that nobody has, with its right check digits."""
    body, check, written = f"{PREFIX}{number:043}", zlib.crc32(f"{PREFIX}{number:043}".encode()), ""
    for _ in range(6):
        check, digit = divmod(check, 62)
        written = (digits + ascii_letters)[digit] + written
    return body + written


@pytest.mark.parametrize("wrong", WRONG)
async def test_fresh_tokens_are_taken_whatever_wrong_ones_come_from_the_same_address(
    wrong: str, edge_home: Path, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with open_setup(edge_home, tmp_path, attempts=clock) as at, httpx2.AsyncClient(timeout=25) as http:
        owner, tokens = at.services.principal, at.services.personal_tokens
        make, when_many = WRONG[wrong]

        async def ask(token: str) -> int:
            headers = ACCEPT | {"authorization": f"Bearer {token}"}
            return (await http.post(at.place.mcp, json=message("ping"), headers=headers)).status_code

        async def ask_fresh() -> list[int]:
            made = await tokens.create(owner, new_id().hex, scopes=["read"])
            return [await ask(token) for token in (OWN, at.token(f"ann-{new_id().hex}"), made.secret)]

        for number in range(MOST):
            assert await ask(make(at, number)) == 401
        assert await ask_fresh() == [200, 200, 200]
        assert await ask(make(at, MOST)) == when_many
        assert await ask_fresh() == [200, 200, 200]
        clock.advance(WITHIN)
        assert await ask(make(at, MOST + 1)) == 401


async def test_guesses_that_are_sent_together_are_counted_and_keep_nobody_out(edge_home: Path, tmp_path: Path) -> None:
    async with (
        open_setup(edge_home, tmp_path, attempts=ManualClock()) as at,
        httpx2.AsyncClient(timeout=25) as http,
        asyncio.TaskGroup() as group,
    ):

        async def ask(token: str) -> int:
            headers = ACCEPT | {"authorization": f"Bearer {token}"}
            return (await http.post(at.place.mcp, json=message("ping"), headers=headers)).status_code

        made = await at.services.personal_tokens.create(at.services.principal, new_id().hex, scopes=["read"])
        guesses = [group.create_task(ask(_made_up(number))) for number in range(2 * MOST)]
        fresh = [group.create_task(ask(token)) for token in (OWN, at.token(f"bo-{new_id().hex}"), made.secret)]
        guesses += [group.create_task(ask(f"a.b.{number}")) for number in range(2 * MOST)]
    statuses = [task.result() for task in guesses]
    assert (statuses.count(401), statuses.count(429)) == (MOST, 3 * MOST)
    assert [task.result() for task in fresh] == [200, 200, 200]
