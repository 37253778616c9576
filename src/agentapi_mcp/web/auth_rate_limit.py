"""Rate limit on invalid tokens, by client address."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from cachetools import FIFOCache, TTLCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import LimitExceededError

MOST = 20
WITHIN = timedelta(minutes=1)
KNOWN_FOR = timedelta(hours=1)
# Bounds the memory: an attacker may use many addresses.
REMEMBERED = 10_000
_AT_ONCE = 10  # new tokens of one address
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenAttempt:
    """A presented token, as its digest, and the address that it came from."""

    source: str
    digest: bytes


@dataclass(slots=True)
class _Lane:
    """The new tokens of one address that are being verified or wait for it."""

    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    users: int = 0


class AuthRateLimit:
    """Counts invalid tokens by address, in bounded memory with first-in-first-out eviction and no background task.

    A token that was valid from the same address within the hour is verified whatever the address's count is, and an
    expired or revoked token is counted by itself, so that one client behind a shared address cannot lock out the rest.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused = FIFOCache[str | TokenAttempt, deque[float]](REMEMBERED)
        self._good = TTLCache[TokenAttempt, None](REMEMBERED, KNOWN_FOR.total_seconds(), timer=clock.monotonic)
        self._lanes: dict[str, _Lane] = {}

    @asynccontextmanager
    async def verifying(self, attempt: TokenAttempt) -> AsyncGenerator[None]:
        """Verify a token within this context, which limits an address to a few new tokens at once.

        Raises:
            LimitExceededError: as `check` does.
        """
        # Without the bound, guesses sent in parallel would all be verified before the first of them is counted.
        if self._is_known(attempt):
            self.check(attempt)
            yield
            return
        lane = self._lanes.setdefault(attempt.source, _Lane())
        lane.users += 1
        try:
            async with lane.places:
                self.check(attempt)
                yield
        finally:
            lane.users -= 1
            if lane.users == 0:
                del self._lanes[attempt.source]

    def check(self, attempt: TokenAttempt) -> None:
        """Reject the attempt if its address has presented too many invalid tokens.

        Raises:
            LimitExceededError: carries the time to wait.
        """
        wait = max(self._wait(attempt), 0 if self._is_known(attempt) else self._wait(attempt.source))
        if wait > 0:
            raise LimitExceededError(
                "Too many tokens were refused from your address, so that yours is not looked at for a while.",
                retry_after=timedelta(seconds=wait),
            )

    def refuse(self, attempt: TokenAttempt, *, was_good: bool = False) -> None:
        """Count an invalid token: by its address, or by itself if it `was_good` once."""
        # A token that was valid once is not a guess, so it does not count against its address.
        self._good.pop(attempt, None)
        counted = attempt if was_good else attempt.source
        times = self._refused.get(counted, deque[float](maxlen=MOST))
        times.append(self._clock.monotonic())
        self._refused[counted] = times  # inserted again, so that it is evicted last
        if self._wait(counted) > 0:
            _log.warning("sign_ins_limited", extra={"client": attempt.source})

    def accept(self, attempt: TokenAttempt) -> None:
        """Remember a valid token."""
        self._good[attempt] = None

    def _wait(self, counted: str | TokenAttempt) -> float:
        times = self._refused.get(counted)
        if times is None or len(times) < MOST:
            return 0
        # The oldest of the newest `MOST` attempts is the next one to leave the window.
        return times[0] + WITHIN.total_seconds() - self._clock.monotonic()

    def _is_known(self, attempt: TokenAttempt) -> bool:
        return attempt in self._good
