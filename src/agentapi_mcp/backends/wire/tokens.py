"""Access tokens that expire: one is shared by all requests, and renewed before its end."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import BackendError

_RENEW_BEFORE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; `expires_at` is None if it never does."""

    value: str = field(repr=False)
    expires_at: datetime | None


class TokenSource(Protocol):
    """What gives new tokens."""

    async def fetch(self) -> Token:
        """Return a new token.

        Raises:
            BackendError: there is none.
        """
        ...


class Tokens:
    """Provides a token that is valid for some minutes at least, if the source has such; asks it one at a time."""

    def __init__(self, clock: Clock, source: TokenSource) -> None:
        self._clock = clock
        self._source = source
        self._lock = asyncio.Lock()
        self._token: Token | None = None

    async def get(self) -> str:
        """Return a token, renewed before the old one expires.

        Raises:
            BackendError: there is none, and the old one has expired or was refused.
        """
        # One renewal at a time: concurrent turns wait for it and share its token.
        async with self._lock:
            token = self._token
            if token is None or self._left(token) < _RENEW_BEFORE:
                token = self._token = await self._renewed(token)
            return token.value

    def refuse(self) -> None:
        """Discard the token that a provider rejected, so that the next one is new."""
        self._token = None

    async def _renewed(self, old: Token | None) -> Token:
        try:
            return await self._source.fetch()
        except BackendError as error:
            # Otherwise the old token is valid still: use it, and try again with the next request.
            if old is None or self._left(old) <= timedelta(0):
                error.unbilled = True  # the provider of the model was not asked
                raise
            return old

    def _left(self, token: Token) -> timedelta:
        return timedelta.max if token.expires_at is None else token.expires_at - self._clock.now()
