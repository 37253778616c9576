"""Steps that sign-ins and connected accounts share: authorization code with PKCE (RFC 7636), metadata (RFC 8414)."""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote, urlencode

from agentapi_mcp.auth.fetching import Fetch, FetchError, check_address
from agentapi_mcp.auth.keys import metadata_urls
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.core.access.models import LoginAnswer, LoginBegun

_FRESH_FOR = timedelta(minutes=5)
_FAILED_FOR = timedelta(seconds=5)


async def find_metadata(fetch: Fetch, issuer: str) -> Mapping[str, object]:
    """Fetch an issuer's metadata, from the first of its addresses that has it.

    Raises:
        FetchError: none has, or it is another issuer's.
    """
    fault = ""
    for url in metadata_urls(issuer):
        try:
            document = await fetch(url)
            for name in ("authorization_endpoint", "token_endpoint"):
                check_address(str(document.get(name)))
        except FetchError as exc:
            fault = str(exc)
            continue
        if document.get("issuer") == issuer:
            return document
        fault = f"{url} is the metadata of another issuer"
    raise FetchError(fault)


@dataclass(frozen=True, slots=True)
class _Known:
    """Metadata, or why there is none, and until when to remember that."""

    found: Mapping[str, object] | str
    until: float


class MetadataMemory:
    """Issuers' metadata, fetched one at a time for each issuer, and remembered for minutes; a failure, for seconds.

    Who begins a sign-in is anybody: each would otherwise make us call the issuer, which might then refuse our address.
    """

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: dict[str, _Known] = {}

    async def find(self, issuer: str) -> Mapping[str, object]:
        """Return an issuer's metadata.

        Raises:
            FetchError: it cannot be fetched, or is another issuer's.
        """
        async with self._locks.setdefault(issuer, asyncio.Lock()):
            known = self._known.get(issuer)
            if known is None or known.until <= self._clock.monotonic():
                known = self._known[issuer] = await self._find(issuer)
        if isinstance(known.found, str):
            raise FetchError(known.found)
        return known.found

    def forget(self) -> None:
        """Fetch anew what is asked for next."""
        self._known.clear()

    async def _find(self, issuer: str) -> _Known:
        try:
            found, lasts = await find_metadata(self._fetch, issuer), _FRESH_FOR
        except FetchError as exc:
            found, lasts = str(exc), _FAILED_FOR
        return _Known(found, self._clock.monotonic() + lasts.total_seconds())


def begin(issuer: str, endpoint: str, parameters: Mapping[str, str]) -> LoginBegun:
    """Return the authorization URL with these parameters, and with a new state and PKCE challenge."""
    # 64 characters; RFC 7636, section 4.1, asks for 43 to 128.
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    asked = {
        **parameters,
        "response_type": "code",
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"
    return LoginBegun(issuer=issuer, url=url, state=state, verifier=verifier)


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a PKCE verifier."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def mismatch(begun: LoginBegun, answer: LoginAnswer, metadata: Mapping[str, object]) -> str | None:
    """Return why an answer does not belong to what was begun; None if it does."""
    # RFC 6749, section 10.12: without `state` another site could complete a sign-in in the visitor's browser.
    if not hmac.compare_digest((answer.state or "").encode(), begun.state.encode()):
        return "its state is another"
    if answer.issuer is not None and answer.issuer != begun.issuer:  # mix-up attack, RFC 9207
        return "another issuer answers"
    # RFC 9207, section 2.4: where it was promised, its absence is an attack, too.
    if answer.issuer is None and metadata.get("authorization_response_iss_parameter_supported") is True:
        return "it does not say which issuer answers, as the metadata promises"
    return None


def client_credentials(client_id: str, secret: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Return the fields and headers by which a client authenticates at an endpoint."""
    if secret is None:
        return {"client_id": client_id}, {}
    # RFC 6749, section 2.3.1: both are form-encoded before they are joined.
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return {}, {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
