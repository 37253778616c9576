"""Access tokens from Google's application-default credentials; needs the extra `google`."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Protocol, TypeVar, cast

from typing_extensions import override

from agentapi_mcp.backends.wire.tokens import Token, TokenSource
from agentapi_mcp.base.errors import BackendError, BackendFault

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_PATIENCE = 30  # seconds for one refresh
_HOW_TO = "run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a key file"

T = TypeVar("T")


class _Credentials(Protocol):
    token: str | None
    expiry: datetime | None  # UTC, but naive

    def refresh(self, request: object) -> None: ...


class GoogleCredentials(TokenSource):
    """The application-default credentials, which are refreshed in a thread."""

    def __init__(self) -> None:
        self._credentials: _Credentials | None = None

    @override
    async def fetch(self) -> Token:
        """Return a new token.

        Raises:
            BackendError: BACKEND_MISSING without the extra or credentials, AUTH when Google rejects them.
        """
        credentials = self._credentials = self._credentials or await _in_time(_load)
        await _in_time(lambda: _refresh(credentials))
        if not credentials.token:
            raise BackendError(BackendFault.AUTH, "Google gave no access token for the default credentials.")
        expiry = credentials.expiry
        return Token(credentials.token, None if expiry is None else expiry.replace(tzinfo=UTC))


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
