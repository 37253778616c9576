"""Single-use links to the pages where users enter an API key or connect an account; the link alone grants nothing."""

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from pydantic import SecretStr

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import (
    AgentApiError,
    CallerError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.base.sealing import Sealer
from agentapi_mcp.core.access.models import LoginBegun
from agentapi_mcp.core.access.principal_factory import without_scopes
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.api_keys import ApiKeys, NewApiKey
from agentapi_mcp.core.keys.models import ApiKey, KeyRequest, PagePurpose, Visit, Visitor
from agentapi_mcp.core.keys.ports import KeyRequestStore

LIFETIME = timedelta(minutes=15)
CONSENT_LIFETIME = timedelta(minutes=10)
_PLACE = {
    PagePurpose.KEY: ("a page of ours", "a visit to enter a key"),
    PagePurpose.ACCOUNT: ("a page of ours", "a visit to connect an account"),
}
_PATH = {PagePurpose.KEY: "/keys/new", PagePurpose.ACCOUNT: "/accounts/new"}
_AGAIN = {
    PagePurpose.KEY: "open the link again",
    PagePurpose.ACCOUNT: "open the link, or the page of your accounts, again",
}
_NEXT = {
    PagePurpose.KEY: "Send your message again.",
    PagePurpose.ACCOUNT: "Send your message again, or open the page of your accounts.",
}
_GONE = "This link is not valid any more: links are for one {} and a quarter of an hour. {}"
_OVER = "Your visit has lasted too long, and has ended; {}."
_NO_SEALER = "Nobody can visit this page: the server has no master key."


class PageRequests:
    """Request a visit of a page from users who came through an issuer where this server's pages can sign them in.

    `again` says how a visitor begins anew.
    """

    def __init__(
        self,
        store: KeyRequestStore,
        sealer: Sealer | None,
        clock: Clock,
        origin: str | None,
        purpose: PagePurpose,
    ) -> None:
        self._store = store
        self._purpose = purpose
        self._gone = _GONE.format(purpose, _NEXT[purpose])
        self.again = _AGAIN[purpose]
        self._sealer = sealer
        self._clock = clock
        self._origin = origin

    async def create(self, principal: Principal, provider: str, can_log_in: Callable[[str], bool]) -> str | None:
        """Create a link to the page for the principal; None if they cannot use it.

        The scopes of their token are ignored, because they sign in again on the page.
        """
        if self._sealer is None or self._origin is None or not can_log_in(principal.via):
            return None
        try:
            require(without_scopes(principal), Action.MANAGE_KEYS)
        except PermissionDeniedError:
            return None
        token = await self._add(principal, provider)
        return f"{self._origin}{_PATH[self._purpose]}?{urlencode({'request': token})}"

    async def serve(self, visit: Visit, visitor: Principal, provider: str) -> Visit:
        """Let a visit that its visitor began without a link serve a request of theirs, as if a link had led to it.

        Raises:
            PermissionDeniedError: the visitor may not manage keys.
        """
        require(visitor, Action.MANAGE_KEYS)
        return replace(visit, token_sha256=_hash(await self._add(visitor, provider)), connecting=None, notices=())

    async def find(self, token: str) -> KeyRequest:
        """Find the request of a link.

        Raises:
            NotFoundError: the link is used, expired or unknown.
        """
        return await self._get(_hash(token))

    async def find_for(self, visit: Visit) -> KeyRequest:
        """Find the request of a visit.

        Raises:
            NotFoundError: the link is used or expired, or the visit serves none.
        """
        if not visit.token_sha256:
            # The browser holds one visit: that of a link, whose page may be open still, was replaced. The link is good.
            raise NotFoundError(f"Another visit has begun in this browser since then; {self.again}.")
        return await self._get(visit.token_sha256)

    async def admit(self, visit: Visit, visitor: Principal) -> Visit:
        """Verify that the visitor is the user whom the link is for, if there is one; give the visit its form token.

        Raises:
            PermissionDeniedError: another user has signed in, or the user may not manage keys.
        """
        require(visitor, Action.MANAGE_KEYS)
        form_token = secrets.token_urlsafe(24)
        if not visit.token_sha256:
            who = Visitor(user_id=visitor.user_id, org_id=visitor.org_id, issuer=visitor.via)
            return Visit(form_token=form_token, visitor=who, ends_at=self._clock.now() + LIFETIME)
        request = await self._get(visit.token_sha256)
        if (visitor.user_id, visitor.via) != (request.user_id, request.issuer):
            raise PermissionDeniedError("You signed in as somebody else than who asked for this page.")
        if visitor.org_id != request.org_id:
            raise PermissionDeniedError("You signed in for another organisation than the one that you asked from.")
        return Visit(token_sha256=visit.token_sha256, form_token=form_token)

    async def consume(self, visit: Visit, visitor: Principal) -> KeyRequest:
        """Use up the link.

        Raises:
            NotFoundError: the link is used or expired.
            PermissionDeniedError: the visitor may not manage keys; the link stays valid.
        """
        require(visitor, Action.MANAGE_KEYS)
        request = await self._store.consume(visitor, visit.token_sha256, self._purpose)
        if request is None or (visitor.user_id, visitor.org_id) != (request.user_id, request.org_id):
            raise NotFoundError(self._gone)
        return request

    async def restore(self, visit: Visit, visitor: Principal) -> None:
        """Make a link usable again, which did not lead to what it is for."""
        await self._store.restore(visitor, visit.token_sha256)

    def seal(self, visit: Visit) -> str:
        """Encrypt a visit for a cookie, so that the visitor can neither read nor change it."""
        if self._sealer is None:
            raise NotFoundError(_NO_SEALER)
        # All state is in the cookie, so that any replica can serve the next step and no rows need cleaning up.
        content = {
            "request": visit.token_sha256.hex(),
            "login": visit.login and asdict(replace(visit.login, url="")),
            "form_token": visit.form_token,
            "connecting": visit.connecting and asdict(replace(visit.connecting, url="")),
            "visitor": visit.visitor and _written(visit.visitor),
            "ends_at": visit.ends_at and visit.ends_at.timestamp(),
            "notices": visit.notices,
            "subject": visit.subject,
            "until": self._until(visit).timestamp(),
        }
        return base64.urlsafe_b64encode(self._sealer.seal(json.dumps(content), _PLACE[self._purpose])).decode()

    def open_(self, sealed: str) -> Visit:
        """Decrypt a visit.

        Raises:
            NotAuthenticatedError: it was not encrypted by this server, or is expired.
        """
        if self._sealer is None:
            raise NotFoundError(_NO_SEALER)
        try:
            opened = self._sealer.open_(base64.urlsafe_b64decode(sealed.encode()), _PLACE[self._purpose])
            content: dict[str, Any] = json.loads(opened)
        except (AgentApiError, ValueError, binascii.Error) as exc:
            raise NotAuthenticatedError(f"Your browser did not send who you are; {self.again}.") from exc
        # Absent from a cookie that a server of an earlier version sealed, as what is read by `get` below.
        visitor, ends_at = content.get("visitor"), content.get("ends_at")
        if self._clock.now().timestamp() >= content["until"]:
            raise NotAuthenticatedError(_OVER.format(self.again) if visitor else self._gone)
        return Visit(
            token_sha256=bytes.fromhex(content["request"]),
            login=None if content["login"] is None else LoginBegun(**content["login"]),
            form_token=content["form_token"],
            connecting=LoginBegun(**content["connecting"]) if content.get("connecting") else None,
            visitor=_read(visitor) if visitor else None,
            ends_at=datetime.fromtimestamp(ends_at, UTC) if ends_at else None,
            notices=tuple(content.get("notices", ())),
            subject=content.get("subject"),
        )

    def _until(self, visit: Visit) -> datetime:
        """Return until when a sealed visit is good: no step makes one without a link longer."""
        until = self._clock.now() + (LIFETIME if visit.connecting is None else CONSENT_LIFETIME)
        return until if visit.ends_at is None else min(until, visit.ends_at)

    async def _add(self, principal: Principal, provider: str) -> str:
        # 256 bits; only their hash is stored, so that reading the database gives no link.
        token = secrets.token_urlsafe(32)
        await self._store.add(
            KeyRequest(
                token_sha256=_hash(token),
                user_id=principal.user_id,
                org_id=principal.org_id,
                issuer=principal.via,
                provider=provider,
                expires_at=self._clock.now() + LIFETIME,
                purpose=self._purpose,
            )
        )
        return token

    async def _get(self, token_sha256: bytes) -> KeyRequest:
        found = await self._store.find(token_sha256, self._purpose)
        if found is None:
            raise NotFoundError(self._gone)
        return found


class KeyRequests(PageRequests):
    """Request keys."""

    def __init__(
        self, store: KeyRequestStore, api_keys: ApiKeys, sealer: Sealer | None, clock: Clock, origin: str | None
    ) -> None:
        super().__init__(store, sealer, clock, origin, PagePurpose.KEY)
        self._api_keys = api_keys

    async def save(self, visit: Visit, visitor: Principal, value: SecretStr) -> ApiKey:
        """Store the entered key and consume the link.

        Raises:
            NotFoundError: the link is used or expired.
            PermissionDeniedError: the visitor may not manage keys; the link stays valid.
            CallerError: it is not an API key; the link stays valid.
        """
        # Consumed before the key is stored: of two forms sent at once only one can succeed.
        request = await self.consume(visit, visitor)
        name = f"{request.provider} {self._clock.now():%Y-%m-%d %H:%M:%S}"
        try:
            return await self._api_keys.add(visitor, NewApiKey(provider=request.provider, value=value, name=name))
        except CallerError:
            # A mistyped key must not cost the user the link.
            await self.restore(visit, visitor)
            raise


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _written(visitor: Visitor) -> dict[str, str]:
    return {"user": str(visitor.user_id), "org": str(visitor.org_id), "issuer": visitor.issuer}


def _read(written: dict[str, str]) -> Visitor:
    user_id, org_id = UserId(UUID(written["user"])), OrgId(UUID(written["org"]))
    return Visitor(user_id=user_id, org_id=org_id, issuer=written["issuer"])
