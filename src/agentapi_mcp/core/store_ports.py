"""What the core keeps things in, as Protocols; each method of a store is one transaction."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from agentapi_mcp.core.events import TurnEvent
from agentapi_mcp.core.identity import OrgId, Principal, UserId
from agentapi_mcp.core.records.agents import AgentRow, CatalogueFile
from agentapi_mcp.core.records.api_keys import ApiKey, KeyOwner, SealedKey
from agentapi_mcp.core.records.audit import AuditEvent, AuditFilter
from agentapi_mcp.core.records.health import AgentHealth, AgentTraffic, HealthCheck
from agentapi_mcp.core.records.identities import Account, Membership, Service
from agentapi_mcp.core.records.ids import AgentId, ApiKeyId, MessageId, SessionId, TurnId
from agentapi_mcp.core.records.key_requests import KeyRequest
from agentapi_mcp.core.records.organizations import Organization
from agentapi_mcp.core.records.pages import Page
from agentapi_mcp.core.records.personal_tokens import FoundToken, PersonalToken
from agentapi_mcp.core.records.sessions import Defaults, History, Message, Session, SessionState
from agentapi_mcp.core.records.turns import Accepted, Busy, Ending, Joined, Lease, NewTurn, Signal, Turn, TurnMark

T = TypeVar("T")


class TurnStore(Protocol):
    """Turns, their leases, and what makes them happen once. Reading a turn whose lease is over settles it."""

    async def accept(self, principal: Principal, new: NewTurn) -> Accepted | Joined | Busy:
        """Write session, user message and turn; or find the turn that this request already has."""
        ...

    async def get(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Read a turn, or raise NotFoundError."""
        ...

    async def recent(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the principal's newest turns, newest first."""
        ...

    async def mark(self, principal: Principal, turn_id: TurnId, mark: TurnMark) -> None:
        """Note what became of the turn's callers."""
        ...

    async def request_cancel(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Ask the turn's owner to end it; a turn that is final stays as it is."""
        ...

    async def renew(self, owner: UUID, turn_ids: Sequence[TurnId], lease: timedelta) -> tuple[Lease, ...]:
        """Renew leases; a turn that is not in the answer is lost to its owner."""
        ...

    async def save_partial(self, principal: Principal, owner: UUID, turn_id: TurnId, text: str) -> bool:
        """Keep the text so far; False when the lease is lost."""
        ...

    async def finish(self, principal: Principal, ended: Turn, ending: Ending) -> Turn | None:
        """Write a turn as it ended, and return it as it is kept; None when the lease is lost."""
        ...


class SessionStore(Protocol):
    """Sessions and their messages, of one principal."""

    async def get(self, principal: Principal, session_id: SessionId) -> Session:
        """Read a session, or raise NotFoundError."""
        ...

    async def defaults(self, principal: Principal, session_id: SessionId | None) -> Defaults:
        """Read what a message in this session, or in a new one, takes where it names nothing, or raise NotFoundError.

        The settings of an organisation are `default_agent`, `default_model`, `temperature`, `max_tokens` and
        `system_prompt`.
        """
        ...

    async def list_(
        self, principal: Principal, *, agent: str | None, query: str | None, cursor: str | None, limit: int
    ) -> Page[Session]:
        """Page through sessions, newest first; `query` searches titles and first messages."""
        ...

    async def messages(
        self, principal: Principal, session_id: SessionId, *, cursor: str | None, limit: int, max_bytes: int
    ) -> Page[Message]:
        """Page through messages with their turns, newest page first; within a page the oldest comes first."""
        ...

    async def history(self, principal: Principal, session_id: SessionId, before: TurnId, max_bytes: int) -> History:
        """Read the newest messages before a turn that fit."""
        ...

    async def rename(self, principal: Principal, session_id: SessionId, title: str) -> None:
        """Give a session another title."""
        ...

    async def delete(self, principal: Principal, session_id: SessionId) -> None:
        """Delete a session with its messages and turns; refused while a turn runs."""
        ...


class CatalogueStore(Protocol):
    """Agents and models as rows."""

    async def load(self) -> tuple[AgentRow, ...]:
        """Read all agents with their models, by name."""
        ...

    async def write(self, file: CatalogueFile) -> bool:
        """Upsert what the operator's files declare, by name, and tell it; False when this hash is already written."""
        ...

    async def tell_changed(self) -> None:
        """Tell every process that there is something new to read."""
        ...


class HealthStore(Protocol):
    """What was measured of the agents, shared by all processes."""

    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        """Read what is known of every agent."""
        ...

    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        """Keep a measurement, and count failures in a row."""
        ...

    async def traffic(self) -> Mapping[str, AgentTraffic]:
        """Summarise the recent turns of every agent, by name."""
        ...


class ProfileStore(Protocol):
    """Users and organisations."""

    async def local_principal(self) -> Principal:
        """Find the machine's user and personal organisation, made on first use in a database that is ours."""
        ...

    async def find_membership(self, user_id: UserId, org_id: OrgId) -> Membership | None:
        """Find what a user of an existing database is in an organisation."""
        ...


class OrganizationStore(Protocol):
    """Organisations: what they set for their members, and their numbers."""

    async def settings(self, principal: Principal) -> Mapping[str, object]:
        """Read what the principal's organisation sets for its members, as it is written."""
        ...

    async def get(self, principal: Principal) -> Organization:
        """Read it with its numbers, or raise NotFoundError."""
        ...

    async def change(self, principal: Principal, changes: Mapping[str, object]) -> None:
        """Set what is given, take back what is None, and leave every other key."""
        ...


class IdentityStore(Protocol):
    """Whose an issuer's subject is; two first sign-ins at the same moment get one account."""

    async def find(self, issuer: str, subject: str) -> Account | None:
        """Find the account that the identity leads to."""
        ...

    async def link_workos(self, issuer: str, subject: str) -> Account | None:
        """Link it with the profile whose `workos_id` the subject is."""
        ...

    async def link_profile(self, issuer: str, subject: str) -> Account | None:
        """Link it with the profile whose id the subject is."""
        ...

    async def link_email(self, issuer: str, subject: str, email: str) -> Account | None:
        """Link it with the one profile of this e-mail that no identity leads to."""
        ...

    async def make(
        self, issuer: str, subject: str, *, email: str | None, name: str | None, org_id: OrgId | None, role: str
    ) -> Account:
        """Make an account, in the organisation or else in a personal one.

        Raises:
            ConfigurationError: profiles are somebody else's to make.
        """
        ...

    async def accept_invitations(
        self, issuer: str, subject: str, *, email: str, name: str | None, user_id: UserId | None
    ) -> Account | None:
        """Make somebody, whose account is made where there is none, a member wherever this e-mail is expected.

        None, and nothing is changed, where it is expected nowhere.
        """
        ...

    async def place_service(self, issuer: str, subject: str, service: Service) -> Account | None:
        """Find or make a program's own account, of its declared organisation alone; None when it is a person's.

        Raises:
            ConfigurationError: there is no place for it; the message says why.
        """
        ...


class ApiKeyStore(Protocol):
    """Sealed keys of providers; another owner's is as if it were not there."""

    async def add(self, new: SealedKey) -> ApiKey:
        """Keep a key, or raise ConflictError where its owner has one of this name."""
        ...

    async def list_(self, owner: KeyOwner) -> tuple[ApiKey, ...]:
        """List an owner's keys, oldest first."""
        ...

    async def active(self, principal: Principal) -> tuple[SealedKey, ...]:
        """List what a principal's turns may use: their own, and their organisation's."""
        ...

    async def remove(self, key: ApiKey) -> None:
        """Remove a key."""
        ...

    async def set_active(self, key: ApiKey, *, active: bool) -> None:
        """Let a key be used, or no more."""
        ...

    async def mark_used(self, key: ApiKey) -> None:
        """Note that a key is used now, unless that was noted within the minute."""
        ...

    async def sealed_otherwise(self, key_id: str, after: ApiKeyId, limit: int) -> tuple[SealedKey, ...]:
        """List keys of all owners that another master key has sealed, by id."""
        ...

    async def replace(self, pairs: Sequence[tuple[SealedKey, SealedKey]]) -> int:
        """Put new seals in place of old ones, and return how many were still as they were."""
        ...


class KeyRequestStore(Protocol):
    """Requests for keys, each of which is used once."""

    async def add(self, request: KeyRequest) -> None:
        """Keep a request, and forget those that nobody can use any more."""
        ...

    async def find(self, token_sha256: bytes) -> KeyRequest | None:
        """Find a request that can be used."""
        ...

    async def take(self, token_sha256: bytes) -> KeyRequest | None:
        """Use a request up; None when it cannot be used."""
        ...

    async def give_back(self, token_sha256: bytes) -> None:
        """Let a request be used after all."""
        ...


class PersonalTokenStore(Protocol):
    """Personal tokens by their hashes."""

    async def add(self, token: PersonalToken, token_hash: bytes, *, most: int) -> None:
        """Keep a new one, or raise ConflictError for its name, LimitExceededError where there are `most` already."""
        ...

    async def list_(self, principal: Principal) -> tuple[PersonalToken, ...]:
        """List the principal's that are not revoked, newest first."""
        ...

    async def revoke(self, principal: Principal, token_id: UUID, at: datetime) -> bool:
        """Revoke one of the principal's; False when there is none that is not revoked."""
        ...

    async def find(self, token_hash: bytes) -> FoundToken | None:
        """Find a token, whatever became of it, and what its owner is now."""
        ...

    async def note_use(self, token_id: UUID, at: datetime) -> None:
        """Note when a token was used."""
        ...


class AuditStore(Protocol):
    """What happened, as events that nobody changes."""

    async def append(self, events: Sequence[AuditEvent]) -> None:
        """Write events, each once however often it comes."""
        ...

    async def list_(
        self, principal: Principal, asked: AuditFilter, *, nobodys: bool, cursor: str | None, limit: int
    ) -> Page[AuditEvent]:
        """Page through the events of the principal's organisation, newest first; `nobodys` adds those of none."""
        ...

    async def keep_partitions(self, moment: datetime) -> None:
        """Make room for the months from this moment on."""
        ...

    async def has_expired(self, before: datetime) -> bool:
        """Tell whether there is a month that was over before then."""
        ...


class SessionCache(Protocol):
    """What is quick to lose of a session: its recent history, and what it is about, told to whoever looks from outside.

    Forgettable: the truth of both is in rows.
    """

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Find the history, if it ends with this message; else others have said more since."""
        ...

    async def keep(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Keep the state for a day and the history for an hour; None where it is not known."""
        ...

    async def forget(self, session_id: SessionId) -> None:
        """Keep neither any longer."""
        ...


class TurnEvents(Protocol):
    """The live events of running turns; at most once, so followers also look at what is written."""

    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        """Tell whoever follows; never waits. `offset` is how long the answer was before the event, in characters."""
        ...

    def follow(self, turn_id: TurnId) -> AbstractAsyncContextManager[AsyncIterator[TurnEvent]]:
        """Follow a turn that runs in this process, from now on."""
        ...

    def listen(self, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> Callable[[], None]:
        """Call the listener with every offset and event of a turn of another process, from the first that is kept.

        Only texts, thoughts, tool activity and the end travel; they never do where processes share no such store.
        """
        ...


class Signals(Protocol):
    """What processes on one database tell each other; at most once, so readers also look for themselves."""

    def subscribe(self, listener: Callable[[Signal], None]) -> Callable[[], None]:
        """Call the listener for every signal until the returned function is called."""
        ...
