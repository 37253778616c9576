"""Access tokens from Google's application-default credentials; needs the extra `google`."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Protocol, TypeVar, cast

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import BackendError, BackendFault

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_RENEW_BEFORE = timedelta(minutes=5)
_PATIENCE = 30  # seconds for one refresh
_HOW_TO = "run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a key file"

T = TypeVar("T")


class _Credentials(Protocol):
    token: str | None
    expiry: datetime | None  # UTC, but naive

    def refresh(self, request: object) -> None: ...


class GoogleTokens:
    """Provides a token valid for some minutes at least; refreshes in a thread, one at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._credentials: _Credentials | None = None
        self._refused = False

    async def token(self) -> str:
        """Return a token, refreshed before the old one expires.

        Raises:
            BackendError: BACKEND_MISSING without the extra or credentials, AUTH when Google rejects them.
        """
        # One refresh at a time: concurrent turns wait for it and share its token.
        async with self._lock:
            if self._credentials is None:
                self._credentials = await _in_time(_load)
            credentials = self._credentials
            if self._refused or self._left(credentials) < _RENEW_BEFORE:
                await self._refresh(credentials)
            if not credentials.token:
                raise BackendError(BackendFault.AUTH, "Google gave no access token for the default credentials.")
            return credentials.token

    def refuse(self) -> None:
        """Discard a token that the provider rejected, so that the next one is fresh."""
        self._refused = True

    async def _refresh(self, credentials: _Credentials) -> None:
        try:
            await _in_time(lambda: _refresh(credentials))
        except BackendError:
            # Otherwise the old token is valid still: use it, and refresh with the next request.
            if self._refused or self._left(credentials) <= timedelta(0):
                raise
        self._refused = False

    def _left(self, credentials: _Credentials) -> timedelta:
        if not credentials.token:
            return timedelta(0)
        if credentials.expiry is None:
            return timedelta.max
        return credentials.expiry.replace(tzinfo=UTC) - self._clock.now()


async def _in_time(work: Callable[[], T]) -> T:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await asyncio.to_thread(work)
    except TimeoutError as error:
        raise BackendError(BackendFault.TIMEOUT_CONNECT, "Google did not give an access token in time.") from error


def _load() -> _Credentials:
    try:
        auth, errors = import_module("google.auth"), import_module("google.auth.exceptions")
        import_module("google.auth.transport.requests")
    except ImportError as error:
        message = "Google credentials need an extra: install agentapi-mcp[google]."
        raise BackendError(BackendFault.BACKEND_MISSING, message) from error
    try:
        found = cast(Sequence[object], auth.default(scopes=_SCOPES))
    except errors.GoogleAuthError as error:
        message = f"There are no usable Google credentials: {_HOW_TO}."
        raise BackendError(BackendFault.BACKEND_MISSING, message) from error
    return cast(_Credentials, found[0])


def _refresh(credentials: _Credentials) -> None:
    errors, transport = import_module("google.auth.exceptions"), import_module("google.auth.transport.requests")
    try:
        credentials.refresh(transport.Request())
    except errors.TransportError as error:
        raise BackendError(BackendFault.CONNECTION, "Google's token server could not be reached.") from error
    except errors.GoogleAuthError as error:
        message = f"Google refused the default credentials: {_HOW_TO}."
        raise BackendError(BackendFault.AUTH, message) from error
