"""Personal access tokens, for programs and for clients that cannot sign in."""

import hashlib
import logging
import re
import secrets
import zlib
from collections.abc import Collection
from datetime import timedelta
from string import ascii_letters, digits
from uuid import UUID

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import (
    InvalidRequestError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
    TokenFlaw,
)
from agentapi_mcp.base.ids import new_id, parse_id
from agentapi_mcp.base.validation import check_text
from agentapi_mcp.core.access.models import NewToken, PersonalToken, SignInRules
from agentapi_mcp.core.access.ports import PersonalTokenStore
from agentapi_mcp.core.access.principal_factory import Credential, member
from agentapi_mcp.core.access.token_lookups import TokenLookups
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.identity.principals import VIA_PERSONAL, Action, Principal, TokenScope, require
from agentapi_mcp.core.identity.shares import Resource, most_rows

# Secret scanners search for the prefix; the check digits avoid false positives, and database queries for garbage.
PREFIX = "agentapi_pat_"
USUAL_LIFETIME = timedelta(days=90)
LONGEST_LIFETIME = timedelta(days=366)
USUAL_SCOPES = (TokenScope.READ, TokenScope.CHAT, TokenScope.EDIT)
MOST_TOKENS = most_rows(Resource.TOKENS)
NOT_VALID = "This token is not valid here."

_BASE62 = digits + ascii_letters
_SECRET_BITS = 256
_SECRET_DIGITS, _CHECK_DIGITS = 43, 6  # 62 ** 43 > 2 ** 256, 62 ** 6 > 2 ** 32
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET_DIGITS + _CHECK_DIGITS}}}")
_MAX_NAME = 100
_USE_NOTED_EVERY = timedelta(minutes=1)
_log = logging.getLogger(__name__)


class PersonalTokens:
    """Create, list, revoke and verify personal tokens."""

    def __init__(self, store: PersonalTokenStore, clock: Clock, rules: SignInRules, audit: AuditLog) -> None:
        self._store = store
        self._lookups = TokenLookups(store)
        self._audit = audit
        self._clock = clock
        self._rules = rules

    async def create(
        self,
        principal: Principal,
        name: str,
        *,
        scopes: Collection[str] = USUAL_SCOPES,
        toolsets: Collection[str] | None = None,
        expires_in: timedelta = USUAL_LIFETIME,
    ) -> NewToken:
        """Create a token for the principal in their organisation; its secret is returned only once.

        Clients with it see the tools of `toolsets`, which give no right, or those of the server.

        Raises:
            ConflictError: another active token has this name.
            PermissionDeniedError: the principal may not create tokens, or not with these scopes.
        """
        require(principal, Action.CREATE_TOKENS)
        if principal.via.startswith(VIA_PERSONAL):
            raise PermissionDeniedError(
                "A personal token makes no other one, which could outlive it; make it where you sign in."
            )
        _check(name, scopes, expires_in)
        wanted = frozenset(map(TokenScope, scopes))
        # A token must not grant more than the credential that creates it.
        beyond = [] if principal.scopes is None else sorted(wanted - principal.scopes)
        if beyond:
            raise PermissionDeniedError(
                f"Your own token lacks the scope '{beyond[0]}', so it can make none that has it.", scope=beyond[0]
            )
        secret, now = _new_secret(), self._clock.now()
        token = PersonalToken(
            id=new_id(),
            user_id=principal.user_id,
            org_id=principal.org_id,
            name=name.strip(),
            last_four=secret[-4:],
            scopes=wanted,
            created_at=now,
            expires_at=now + expires_in,
            toolsets=None if toolsets is None else frozenset(toolsets),
        )
        await self._store.add(token, _hash(secret), most=MOST_TOKENS)
        _log.info("personal_token_made", extra={"token_id": str(token.id), "user_id": str(token.user_id)})
        audited = AuditDetails(scopes=" ".join(sorted(wanted)), expires_at=token.expires_at.isoformat())
        await self._audit.record(principal, AuditAction.TOKEN_CREATED, target=_target(token.id), details=audited)
        return NewToken(secret, token)

    async def list_(self, principal: Principal) -> tuple[PersonalToken, ...]:
        """List the principal's tokens in their organisation that are not revoked, newest first."""
        require(principal, Action.MANAGE_TOKENS)
        return await self._store.list_(principal)

    async def revoke(self, principal: Principal, token_id: str) -> None:
        """Revoke a token permanently, with immediate effect.

        Raises:
            NotFoundError: the principal has no such token, or it was revoked already.
        """
        require(principal, Action.MANAGE_TOKENS)
        parsed = parse_id(token_id, "token_id")
        if not await self._store.revoke(principal, parsed, self._clock.now()):
            raise NotFoundError("There is no such personal token, or it was revoked already.")
        _log.info("personal_token_revoked", extra={"token_id": token_id, "user_id": str(principal.user_id)})
        await self._audit.record(principal, AuditAction.TOKEN_REVOKED, target=_target(parsed))

    def reload(self, rules: SignInRules) -> None:
        """Replace the sign-in rules, which have the aliases of roles."""
        self._rules = rules

    async def principal_of(self, secret: str) -> Principal:
        """Return the principal of a token, with the current role of its owner.

        Raises:
            NotAuthenticatedError: it is unknown, revoked or expired; unknown and revoked have the same message.
            PermissionDeniedError: its owner has left the organisation that it is for.
        """
        if not _is_formed(secret):
            raise NotAuthenticatedError(NOT_VALID)
        # No timing attack: the time of the index lookup depends on hashes only, and an attacker cannot choose a token
        # whose hash is close to that of another one.
        found, now = await self._lookups.find(_hash(secret)), self._clock.now()
        if found is None or found.token.revoked_at is not None:
            _log.info("token_refused", extra={"reason": "a personal token, unknown or revoked"})
            flaw = TokenFlaw.FORGED if found is None else TokenFlaw.ENDED
            raise NotAuthenticatedError(NOT_VALID, flaw=flaw)
        token = found.token
        if now >= token.expires_at:
            _log.info("token_refused", extra={"reason": "a personal token, expired", "token_id": str(token.id)})
            raise NotAuthenticatedError("This token has expired; make another one.", flaw=TokenFlaw.ENDED)
        if found.membership is None:
            raise PermissionDeniedError(
                "You are no longer a member of the organisation that this token is for; ask an administrator.",
                member=(token.user_id, token.org_id),
            )
        if token.last_used_at is None or now - token.last_used_at >= _USE_NOTED_EVERY:
            await self._store.record_use(token.id, now)
        credential = Credential(
            via=f"{VIA_PERSONAL}{token.id}", scopes=token.scopes, expires_at=token.expires_at, toolsets=token.toolsets
        )
        return member(token.user_id, found.membership, self._rules.roles, credential)


def _target(token_id: UUID) -> AuditTarget:
    return AuditTarget("token", str(token_id))


def _check(name: str, scopes: Collection[str], expires_in: timedelta) -> None:
    check_text(name, "token_name", _MAX_NAME)
    if not name.strip().isprintable():
        raise InvalidRequestError("must be one line of printable characters.", argument="token_name")
    if not scopes or not set(scopes) <= set(TokenScope):
        raise InvalidRequestError(f"must be some of {', '.join(TokenScope)}.", argument="scopes")
    if not timedelta(minutes=1) <= expires_in <= LONGEST_LIFETIME:
        raise InvalidRequestError(f"must be between a minute and {LONGEST_LIFETIME.days} days.", argument="expires_in")


def _new_secret() -> str:
    body = PREFIX + _base62(secrets.randbits(_SECRET_BITS), _SECRET_DIGITS)
    return body + _check_digits(body)


def _is_formed(secret: str) -> bool:
    """Return whether this has the form of a token; cheap, without a database query."""
    return _FORM.fullmatch(secret) is not None and _check_digits(secret[:-_CHECK_DIGITS]) == secret[-_CHECK_DIGITS:]


def _check_digits(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK_DIGITS)


def _base62(number: int, length: int) -> str:
    written = ""
    for _ in range(length):
        number, digit = divmod(number, len(_BASE62))
        written = _BASE62[digit] + written
    return written


def _hash(secret: str) -> bytes:
    """Hash a token for the database (0001_schema.sql explains the choice)."""
    return hashlib.sha256(secret.encode("ascii")).digest()
