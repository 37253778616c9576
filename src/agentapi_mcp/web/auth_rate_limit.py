"""Rate limit on invalid tokens, by client address."""

import logging
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

from cachetools import FIFOCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import LimitExceededError, TokenFlaw

MOST = 20
WITHIN = timedelta(minutes=1)
# Bounds the memory: an attacker may use many addresses.
REMEMBERED = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenAttempt:
    """A presented token, as its digest, and the address that it came from."""

    source: str
    digest: bytes


class AuthRateLimit:
    """Counts invalid tokens by address, in bounded memory with first-in-first-out eviction and no background task.

    It is asked about tokens that were found invalid, so that nobody who guesses keeps a valid one out. An expired or
    revoked token counts by itself, and one of a trusted issuer that is not for here does not count.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused = FIFOCache[str | TokenAttempt, deque[float]](REMEMBERED)

    def refuse(self, attempt: TokenAttempt, flaw: TokenFlaw) -> None:
        """Count an invalid token.

        Raises:
            LimitExceededError: its address, or the token itself, was refused too often already; says how long to wait.
        """
        if flaw is TokenFlaw.UNSUITABLE:
            return
        counted = attempt if flaw is TokenFlaw.ENDED else attempt.source
        wait = self._wait(counted)
        if wait > 0:
            raise LimitExceededError(
                "Too many tokens were refused from your address; this one is not valid either.",
                retry_after=timedelta(seconds=wait),
            )
        times = self._refused.get(counted, deque[float](maxlen=MOST))
        times.append(self._clock.monotonic())
        self._refused[counted] = times  # inserted again, so that it is evicted last
        if self._wait(counted) > 0:
            _log.warning("sign_ins_limited", extra={"client": attempt.source})

    def _wait(self, counted: str | TokenAttempt) -> float:
        times = self._refused.get(counted)
        if times is None or len(times) < MOST:
            return 0
        # The oldest of the newest `MOST` attempts is the next one to leave the window.
        return times[0] + WITHIN.total_seconds() - self._clock.monotonic()
