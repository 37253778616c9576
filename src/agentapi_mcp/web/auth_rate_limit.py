"""How often one address may come with a token that is none, before no token of it is looked at for a while."""

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
REMEMBERED = 10_000
_AT_ONCE = 10  # new tokens of one address
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenAttempt:
    """A token that somebody presents, by its digest, and from where."""

    source: str
    digest: bytes


@dataclass(slots=True)
class _Lane:
    """Who waits, or is looked at, of one address."""

    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    users: int = 0


class AuthRateLimit:
    """Counts refusals by address, in bounded memory: what came first is forgotten first, and nothing runs by itself.

    A token that was good from the same address within the hour is verified in spite of all others there, and one that
    has expired or was revoked counts for itself alone, so that nobody behind a shared address locks out the others.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused = FIFOCache[str | TokenAttempt, deque[float]](REMEMBERED)
        self._good = TTLCache[TokenAttempt, None](REMEMBERED, KNOWN_FOR.total_seconds(), timer=clock.monotonic)
        self._lanes: dict[str, _Lane] = {}

    @asynccontextmanager
    async def looking_at(self, attempt: TokenAttempt) -> AsyncGenerator[None]:
        """Look at a token within this: of one address at few at once, so that guesses sent together are counted too.

        Raises:
            LimitExceededError: as `check` does.
        """
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
        """Refuse to look at the token of an address from which too many were refused.

        Raises:
            LimitExceededError: it says when one may try again.
        """
        wait = max(self._wait(attempt), 0 if self._is_known(attempt) else self._wait(attempt.source))
        if wait > 0:
            raise LimitExceededError(
                "Too many tokens were refused from your address, so that yours is not looked at for a while.",
                retry_after=timedelta(seconds=wait),
            )

    def refuse(self, attempt: TokenAttempt, *, was_good: bool = False) -> None:
        """Count a token that was refused, for its address unless it `was_good` once, which nobody has guessed."""
        self._good.pop(attempt, None)
        counted = attempt if was_good else attempt.source
        times = self._refused.get(counted, deque[float](maxlen=MOST))
        times.append(self._clock.monotonic())
        self._refused[counted] = times  # set anew, so that it is the newest
        if self._wait(counted) > 0:
            _log.warning("sign_ins_limited", extra={"client": attempt.source})

    def accept(self, attempt: TokenAttempt) -> None:
        """Remember a token that was good."""
        self._good[attempt] = None

    def _wait(self, counted: str | TokenAttempt) -> float:
        times = self._refused.get(counted)
        if times is None or len(times) < MOST:
            return 0
        return times[0] + WITHIN.total_seconds() - self._clock.monotonic()

    def _is_known(self, attempt: TokenAttempt) -> bool:
        return attempt in self._good
