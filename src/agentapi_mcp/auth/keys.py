"""Public keys of an authorization server (JWKS): fetched on demand and cached for minutes."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlsplit

import httpx2
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from agentapi_mcp.auth.fetching import Fetch, FetchError, HttpFetch
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import IssuerUnavailableError
from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.core.access.models import ASYMMETRIC, Issuer

FRESH_FOR = timedelta(minutes=5)
USABLE_FOR = timedelta(minutes=30)  # while the issuer is unavailable
# Tokens with made-up key ids would otherwise make us call the issuer at will.
MIN_REFRESH_INTERVAL = timedelta(seconds=30)
_MAX_WAIT_WITH_KEYS = timedelta(seconds=1)  # while an older cached key can still be used
_REFRESH_TIMEOUT = timedelta(seconds=8)
_MAX_KEYS = 100
_log = logging.getLogger(__name__)


class NoKeyError(Exception):
    """The issuer has no such key; the message is for the operator's log."""


class KeySet:
    """An issuer's cached keys by `kid` (RFC 7517), with one refresh at a time, at most every 30 s."""

    def __init__(self, issuer: Issuer, fetch: Fetch, clock: Clock, group: asyncio.TaskGroup) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._group = group
        self._keys: tuple[PyJWK, ...] = ()
        self._fetched_at: float | None = None
        self._refresh_started_at: float | None = None
        self._refresh_task: asyncio.Task[None] | None = None
        self._fault = ""

    async def find(self, kid: str | None, algorithm: str) -> PyJWK:
        """Return the key for a token's `kid` and algorithm.

        A key is fresh for five minutes; an older or unknown one triggers a refresh, so that rotated keys expire.
        While a usable key is cached, the refresh is waited for at most a second.

        Raises:
            NoKeyError: the issuer has no such key.
            IssuerUnavailableError: the keys cannot be fetched.
        """
        found = self._find(kid, algorithm)
        if found is not None and not self._is_older_than(FRESH_FOR):
            return found
        refresh_task = self._start_refresh()
        if refresh_task is not None:
            has_usable_key = found is not None and not self._is_older_than(USABLE_FOR)
            await asyncio.wait([refresh_task], timeout=self._remaining_wait() if has_usable_key else None)
        found = self._find(kid, algorithm)
        if found is None or self._is_older_than(USABLE_FOR):
            if self._fault:
                raise IssuerUnavailableError("The authorization server does not tell its keys now.")
            raise NoKeyError(f"{self._issuer.issuer} has no such key")
        return found

    async def aclose(self) -> None:
        """Cancel a running refresh."""
        if self._refresh_task is not None:
            self._fault = "it is not asked any more"  # waiting callers get a retryable error
            self._refresh_task.cancel()
            await asyncio.wait([self._refresh_task])

    def _find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        candidates = [key for key in self._keys if key.algorithm_name == algorithm]
        if kid is None:
            return candidates[0] if len(candidates) == 1 else None
        return next((key for key in candidates if key.key_id == kid), None)

    def _is_older_than(self, age: timedelta) -> bool:
        return self._fetched_at is None or self._clock.monotonic() - self._fetched_at >= age.total_seconds()

    def _start_refresh(self) -> asyncio.Task[None] | None:
        """Return the running refresh, or start one; None within the minimum interval."""
        if self._refresh_task is not None and not self._refresh_task.done():
            return self._refresh_task
        now = self._clock.monotonic()
        if (
            self._refresh_started_at is not None
            and now - self._refresh_started_at < MIN_REFRESH_INTERVAL.total_seconds()
        ):
            return None
        self._refresh_started_at = now
        self._refresh_task = self._group.create_task(self._refresh())
        return self._refresh_task

    def _remaining_wait(self) -> float:
        waited = self._clock.monotonic() - (self._refresh_started_at or 0)
        return max(_MAX_WAIT_WITH_KEYS.total_seconds() - waited, 0)

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(_REFRESH_TIMEOUT.total_seconds()):
                keys = await fetch_keys(self._issuer, self._fetch)
        except (FetchError, TimeoutError) as exc:
            self._fault = str(exc) or f"its answer takes longer than {_REFRESH_TIMEOUT.total_seconds():g} s"
            _log.warning("issuer_keys_unavailable", extra={"issuer": self._issuer.issuer, "reason": self._fault})
            return
        except Exception as exc:  # noqa: BLE001  # no answer of an issuer may end the group, and with it the program
            self._fault = type(exc).__name__
            _log.exception("issuer_keys_failed", extra={"issuer": self._issuer.issuer})
            return
        # Replaced only by a complete set: after a failed refresh, the old keys stay usable for a while.
        self._keys, self._fetched_at, self._fault = keys, self._clock.monotonic(), ""


async def fetch_keys(issuer: Issuer, fetch: Fetch) -> tuple[PyJWK, ...]:
    """Fetch an issuer's public keys, by its metadata unless the operator says where they are.

    Raises:
        FetchError: they cannot be fetched.
    """
    return read_keys(await fetch(issuer.jwks_uri or await _find_jwks_uri(issuer, fetch)))


async def count_keys(issuer: Issuer) -> int:
    """Fetch an issuer's public keys once, as the server would, and return how many there are.

    Raises:
        FetchError: they cannot be fetched.
    """
    async with httpx2.AsyncClient() as client:
        return len(await fetch_keys(issuer, HttpFetch(client)))


async def _find_jwks_uri(issuer: Issuer, fetch: Fetch) -> str:
    """Find the `jwks_uri`; metadata of another issuer is rejected (RFC 8414, section 3.3)."""
    faults: list[str] = []
    for url in metadata_urls(issuer.issuer):
        try:
            document = await fetch(url)
        except FetchError as exc:
            faults.append(str(exc))
            continue
        jwks_uri = document.get("jwks_uri")
        if document.get("issuer") == issuer.issuer and isinstance(jwks_uri, str):
            return jwks_uri
        faults.append(f"{url} is not the metadata of {issuer.issuer}")
    raise FetchError("; ".join(faults))


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """List an issuer's metadata URLs, in the order of the MCP specification (2026-07-28, authorization)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
    if not path:
        return origin + oauth, origin + openid
    return origin + oauth + path, origin + openid + path, origin + path + openid


def read_keys(document: Mapping[str, object]) -> tuple[PyJWK, ...]:
    """Read the public signing keys of a JWK set (RFC 7517, section 5); other keys are ignored.

    Raises:
        FetchError: the set has no such key.
    """
    keys: list[PyJWK] = []
    for jwk in map(as_object, as_list(document.get("keys"))[:_MAX_KEYS]):
        # A symmetric or private key in a published set is known to everybody.
        if jwk.get("kty") == "oct" or "d" in jwk or jwk.get("use", "sig") != "sig":
            continue
        try:
            key = PyJWK(jwk)
        except (PyJWTError, ValueError, TypeError):
            continue
        if key.algorithm_name in ASYMMETRIC:
            keys.append(key)
    if not keys:
        raise FetchError("the key set holds no key that signs")
    return tuple(keys)
