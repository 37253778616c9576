"""Provider API keys of users and organisations: encrypted at rest, decrypted only for a turn."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pydantic import SecretStr

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, InvalidRequestError, NotFoundError, StoreError
from agentapi_mcp.base.ids import ApiKeyId, new_id
from agentapi_mcp.base.placeholders import unfilled
from agentapi_mcp.base.sealing import Sealer
from agentapi_mcp.base.validation import check_text
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditOutcome, AuditTarget
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.models import (
    ApiKey,
    KeyOwner,
    KeySource,
    ProviderKey,
    Rotation,
    SealedKey,
    UnopenedSecret,
    key_place,
    plain_provider,
)
from agentapi_mcp.core.keys.ports import ApiKeyStore

_MAX_NAME = 100
_SHORTEST, _LONGEST = 8, 2000
_SHORTEST_WITH_END = 12  # of a shorter key, four characters would reveal too much
# Rows of one transaction of a rotation.
_BATCH = 50
_RECORD_USE_EVERY = timedelta(minutes=1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key as entered; the default name is that of its provider and model."""

    provider: str
    value: SecretStr
    model: str | None = None
    name: str | None = None


class AvailableKeys:
    """The active keys that a principal's turns can use, still encrypted."""

    def __init__(self, keys: Sequence[SealedKey] = (), sealer: Sealer | None = None) -> None:
        self._keys = sorted(keys, key=_preference, reverse=True)
        self._sealer = sealer

    @property
    def can_be_added(self) -> bool:
        """Whether this server stores keys of its users."""
        return self._sealer is not None

    def has(self, provider: str, models: Sequence[str] = ()) -> bool:
        """Return whether there is a key for the model; it is not decrypted."""
        return self._match(provider, models) is not None

    def source(self, provider: str, models: Sequence[str] = ()) -> KeySource | None:
        """Return whose key `find` would find; it is not decrypted."""
        found = self._match(provider, models)
        return None if found is None else found.key.owner.key_source

    def find(self, provider: str, models: Sequence[str] = ()) -> ProviderKey | None:
        """Find the key for a model, by any of its names: the user's, else the organisation's.

        A key for the model is preferred to one for its provider, and a newer one to an older one.

        Raises:
            ConfigurationError: the master key that encrypted it is missing.
            StoreError: the stored key was modified.
        """
        sealed = self._match(provider, models)
        if sealed is None or self._sealer is None:
            return None
        try:
            return ProviderKey(sealed.key, SecretStr(self._sealer.open_(sealed.sealed, _place(sealed.key))))
        except AgentApiError as exc:
            # No fallback to another key: it would silently charge somebody else for the turn.
            _log.warning("api_key_not_opened", extra={"api_key_id": str(sealed.key.id), "error": str(exc)})
            raise

    def _match(self, provider: str, models: Sequence[str]) -> SealedKey | None:
        wanted = plain_provider(provider)
        matching = (
            sealed
            for sealed in self._keys
            if sealed.key.provider == wanted and (sealed.key.model is None or sealed.key.model in models)
        )
        return next(matching, None)


class ApiKeys:
    """Use cases of API keys; without a sealer there are none, and none can be added."""

    def __init__(self, store: ApiKeyStore, sealer: Sealer | None, clock: Clock, audit: AuditLog) -> None:
        self._store = store
        self._audit = audit
        self._sealer = sealer
        self._clock = clock

    async def add(self, principal: Principal, new: NewApiKey, *, organization: bool = False) -> ApiKey:
        """Encrypt and store a key of the principal, or of their organisation; it is used from the next turn on.

        Raises:
            InvalidRequestError: it is not an API key, or a name is missing or too long.
            ConflictError: a key with this name exists.
            ConfigurationError: there is no master key to encrypt it with.
        """
        owner, sealer = _owner(principal, organization=organization), self._needed_sealer()
        value = _checked(new.value).get_secret_value()
        provider = plain_provider(_named(new.provider, "provider"))
        model = None if new.model is None else _named(new.model, "model")
        key = ApiKey(
            id=ApiKeyId(new_id()),
            owner=owner,
            name=_named(new.name, "name") if new.name is not None else " ".join(filter(None, (provider, model))),
            provider=provider,
            model=model,
            last_four=value[-4:] if len(value) >= _SHORTEST_WITH_END else None,
            active=True,
            created_at=self._clock.now(),
            last_used_at=None,
        )
        stored = await self._store.add(principal, SealedKey(key, sealer.seal(value, _place(key)), sealer.key_id))
        await self._record(principal, AuditAction.KEY_ADDED, stored)
        return stored

    async def list_(self, principal: Principal, *, organization: bool = False) -> tuple[ApiKey, ...]:
        """List the principal's keys, or their organisation's, oldest first, without the secrets."""
        return await self._store.list_(principal, _owner(principal, organization=organization))

    async def remove(self, principal: Principal, which: str, *, organization: bool = False) -> ApiKey:
        """Remove a key, by its id or name.

        Raises:
            NotFoundError: there is no such key.
        """
        key = await self._find(principal, which, organization=organization)
        await self._store.remove(principal, key)
        await self._record(principal, AuditAction.KEY_REMOVED, key)
        return key

    async def set_active(self, principal: Principal, which: str, *, active: bool, organization: bool = False) -> ApiKey:
        """Enable or disable a key, by its id or name.

        Raises:
            NotFoundError: there is no such key.
        """
        key = await self._find(principal, which, organization=organization)
        await self._store.set_active(principal, key, active=active)
        await self._record(principal, AuditAction.KEY_CHANGED, key, status="active" if active else "inactive")
        return key

    async def available(self, principal: Principal) -> AvailableKeys:
        """Load the keys that the principal's turns can use."""
        require(principal, Action.CHAT)
        if self._sealer is None:
            return AvailableKeys()
        return AvailableKeys(await self._store.active(principal), self._sealer)

    async def mark_used(self, principal: Principal, used: ProviderKey) -> None:
        """Record the use of a key, at most once a minute; store errors are ignored."""
        last = used.key.last_used_at
        if last is None or self._clock.now() - last >= _RECORD_USE_EVERY:
            with suppress(StoreError):
                await self._store.mark_used(principal, used.key)

    async def rotate(self, operator: Principal) -> Rotation:
        """Encrypt all keys with the first master key, in batches; an interrupted rotation can be resumed.

        It checks no role: operators call it, who have the master keys and the database. No key is returned.

        Raises:
            ConfigurationError: there is no master key.
        """
        sealer, done, after = self._needed_sealer(), 0, ApiKeyId(UUID(int=0))
        unopened: list[UnopenedSecret] = []
        while batch := await self._store.sealed(after, _BATCH):
            after = batch[-1].key.id
            again: list[tuple[SealedKey, SealedKey]] = []
            for old in batch:
                place = _place(old.key)
                try:
                    plain = sealer.open_(old.sealed, place)
                except AgentApiError as exc:  # one undecryptable key must not stop the rotation of the rest
                    unopened.append(UnopenedSecret.of(f"key {old.key.id}", old.key_id, exc))
                    continue
                if old.key_id != sealer.key_id:
                    again.append((old, SealedKey(old.key, sealer.seal(plain, place), sealer.key_id)))
            done += await self._store.replace(again)
        await self._audit.record(
            operator,
            AuditAction.SECRETS_ROTATED,
            outcome=AuditOutcome.FAILED if unopened else AuditOutcome.OK,
            details=AuditDetails(count=done, reason="not_opened" if unopened else None),
        )
        return Rotation(done, unopened)

    async def _record(
        self, principal: Principal, action: AuditAction, key: ApiKey, *, status: str | None = None
    ) -> None:
        details = AuditDetails(provider=key.provider, model=key.model, status=status)
        await self._audit.record(principal, action, target=AuditTarget("key", str(key.id)), details=details)

    async def _find(self, principal: Principal, which: str, *, organization: bool) -> ApiKey:
        for key in await self.list_(principal, organization=organization):
            if which in {str(key.id), key.name}:
                return key
        raise NotFoundError("There is no such key; `agentapi-mcp keys list` shows those there are.")

    def _needed_sealer(self) -> Sealer:
        if self._sealer is None:
            raise ConfigurationError(
                "This server keeps no keys of its users: it has no master key to seal them with. Set "
                "AGENTAPI_MASTER_KEY, AGENTAPI_MASTER_KEY_FILE or AGENTAPI_MASTER_KEY_COMMAND; "
                "`agentapi-mcp secrets generate` makes one."
            )
        return self._sealer


def _owner(principal: Principal, *, organization: bool) -> KeyOwner:
    require(principal, Action.EDIT_ORGANIZATION if organization else Action.MANAGE_KEYS)
    return KeyOwner(principal.org_id, None if organization else principal.user_id)


def _place(key: ApiKey) -> tuple[str, ...]:
    return key_place(key.owner.org_id, key.owner.user_id, key.id, key.provider, key.model)


def _preference(sealed: SealedKey) -> tuple[bool, bool, datetime, str]:
    key = sealed.key
    return key.owner.user_id is not None, key.model is not None, key.created_at, str(key.id)


def _named(text: str, argument: str) -> str:
    check_text(text, argument, _MAX_NAME)
    name = text.strip()
    if not name.isprintable():
        raise InvalidRequestError("must be one line of printable characters.", argument=argument)
    return name


def _checked(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    placeholder = unfilled(text)
    if placeholder is not None:
        raise InvalidRequestError(f"This is no API key: it {placeholder}.")
    # It becomes the value of an HTTP header.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidRequestError("This is no API key: it must be of printable ASCII characters, without spaces.")
    if not _SHORTEST <= len(text) <= _LONGEST:
        raise InvalidRequestError(f"This is no API key: it must have {_SHORTEST} to {_LONGEST} characters.")
    return SecretStr(text)
