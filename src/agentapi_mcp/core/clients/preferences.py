"""MCP clients of a user in an organisation, and the preferences of each client."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta

from cachetools import LRUCache, TLRUCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.base.json_values import as_object, as_text, is_list
from agentapi_mcp.base.text import listed, one_line
from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry
from agentapi_mcp.core.catalogue.models import AgentPreferences, ClientPreferences, Preferences
from agentapi_mcp.core.catalogue.organization_settings import check_names, check_setting
from agentapi_mcp.core.catalogue.policy import CataloguePolicy, typed_setting
from agentapi_mcp.core.clients.models import TRIAL, ClientState, State
from agentapi_mcp.core.clients.ports import ClientStore
from agentapi_mcp.core.identity.principals import Action, Principal, require

DEFAULTS = ("default_agent", "default_model")
AGENT_PREFERENCES = tuple(field.name for field in fields(AgentPreferences))
_CACHE_LIFETIME = timedelta(seconds=10)
_MOST_AGENTS = 200
_MAX_NAME = 255
_MOST_NOTED = 1_000
_log = logging.getLogger(__name__)


class Clients:
    """The principal's own MCP clients, by the names that the clients report.

    Preferences are used for ten seconds after their rows were read; a change in this process invalidates the entry.
    """

    def __init__(
        self, store: ClientStore, policy: CataloguePolicy, clock: Clock, *, max_remembered: int = 10_000
    ) -> None:
        self._store = store
        self._policy = policy
        self._read = TLRUCache[tuple[UserId, OrgId, str], _Read](max_remembered, _forget_at, timer=clock.monotonic)
        self._noted = LRUCache[tuple[UserId, str], bool](_MOST_NOTED)

    async def record(self, principal: Principal, client: str, state: State) -> None:
        """Record that a client connected, with its name, version, protocol and toolsets; a trial of ours is none."""
        if not client.startswith(TRIAL):
            await self._store.record(principal, client, state)

    async def preferences(self, principal: Principal, client: str) -> Preferences:
        """Return the preferences for the messages of a client, from the cache if possible."""
        key = (principal.user_id, principal.org_id, client)
        read = self._read.get(key)
        if read is None:
            state = await self._store.find(principal, client)
            self._note_faults(principal, state)
            # What a store shared with other replicas has kept for a while is kept here for the rest of that time.
            read = self._read[key] = _Read(read_preferences(state), state.age)
        return read.preferences

    async def get(self, principal: Principal, client: str) -> ClientPreferences:
        """Return the stored preferences of a client; empty if it is unknown."""
        require(principal, Action.READ_CATALOGUE)
        return ClientPreferences(client=client, preferences=read_preferences(await self._store.find(principal, client)))

    async def list_(self, principal: Principal) -> tuple[ClientPreferences, ...]:
        """List the clients by name, with their preferences."""
        require(principal, Action.READ_CATALOGUE)
        return tuple(
            ClientPreferences(client=client, preferences=read_preferences(state))
            for client, state in await self._store.list_(principal)
            if not client.startswith(TRIAL)  # earlier versions recorded them
        )

    async def change(self, principal: Principal, client: str, name: str, value: object | None) -> ClientPreferences:
        """Set a preference: `default_agent`, `default_model`, or `AGENT.enabled` etc. of an agent; None unsets it.

        Raises:
            InvalidRequestError: there is no such preference, or its value is invalid; nothing is changed.
            PermissionDeniedError: the role or token does not allow it.
        """
        require(principal, Action.EDIT_PREFERENCES)
        agent, setting = _named(name)
        if value is not None:
            value = _checked(name, agent, setting, value, await self._policy.entries(principal))
        edit = _edit_default(setting, value) if agent is None else _edit_agent(agent, setting, value)
        state = await self._store.change(principal, client, edit)
        # Other processes see the change when their own entry expires.
        self._read.pop((principal.user_id, principal.org_id, client), None)
        return ClientPreferences(client=client, preferences=read_preferences(state))

    def _note_faults(self, principal: Principal, state: ClientState) -> None:
        """Log what other programs wrote in a form that is not theirs either, once for each user and fault."""
        for fault in {_fault(entry) for entry in _flat_entries(state)} - {None}:
            noted = (principal.user_id, str(fault))
            if not self._noted.get(noted):
                self._noted[noted] = True
                _log.warning("mcp_state_ignored", extra={"user_id": str(principal.user_id), "reason": fault})

    async def find_client(self, principal: Principal, client: str | None) -> str:
        """Find a client by name; the name can be omitted if there is only one.

        Case, spaces and punctuation do not matter where only one is meant: "Claude Code" calls itself `claude-code`.

        Raises:
            NotFoundError: no client has this name, or there are several; the message lists them.
        """
        names = [one.client for one in await self.list_(principal)]
        if client in names or (client is None and len(names) == 1):
            return client or names[0]
        alike = [name for name in names if client is not None and _letters(name) == _letters(client)]
        if len(alike) == 1:
            return alike[0]
        if not names:
            raise NotFoundError("No MCP client of yours has been here in the last thirty days; connect one first.")
        known = listed([repr(name) for name in names])
        if client is None:
            raise NotFoundError(f"You have several MCP clients; name one of: {known}.")
        raise NotFoundError(f"There is no MCP client {one_line(client, 60)!r} of yours; there are: {known}.")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


@dataclass(frozen=True, slots=True)
class _Read:
    """Preferences, and how old their rows were when they were taken."""

    preferences: Preferences
    age: timedelta


def _forget_at(_key: object, read: _Read, now: float) -> float:
    return now + (_CACHE_LIFETIME - read.age).total_seconds()


def read_preferences(state: ClientState) -> Preferences:
    """Parse `mcp_state`, ignoring values of an unexpected form.

    `{"defaults": {"agent", "model"}, "agents": [{"mcp_name", "enabled", "model", …}]}`, and of other programs
    `{"mcp_name", "enabled", …}`, whose `enabled` counts where the client's own entry has none.
    """
    # `type`, `command`, `env` and `auth_type` of an entry, which other programs write, are ignored: only the operator's
    # file decides how an agent is reached.
    defaults = as_object(state.own.get("defaults"))
    parsed: dict[str, dict[str, object]] = {}
    for entry in map(as_object, _entries(state.own) or ()):
        name = entry.get("mcp_name")
        if isinstance(name, str):
            typed = {setting: _typed(setting, entry.get(setting)) for setting in AGENT_PREFERENCES}
            parsed.setdefault(name, {setting: value for setting, value in typed.items() if value is not None})
    for entry in _flat_entries(state):
        if _fault(entry) is None and "enabled" in entry:
            parsed.setdefault(str(entry["mcp_name"]), {}).setdefault("enabled", entry["enabled"])
    agents = {name: replace(AgentPreferences(), **given) for name, given in parsed.items()}
    return Preferences(
        default_agent=as_text(_typed("default_agent", defaults.get("agent"))),
        default_model=as_text(_typed("default_model", defaults.get("model"))),
        agents=agents,
    )


def readable(state: ClientState) -> ClientState:
    """Return the part of a state that preferences are read from: no `command`, no `env`, nothing else of others."""
    own = _only(state.own, ("client", "mcp_name", "enabled"))
    own |= {"defaults": _only(as_object(state.own.get("defaults")), ("agent", "model"))}
    entries = map(as_object, _entries(state.own) or ())
    own |= {"agents": [_only(entry, ("mcp_name", *AGENT_PREFERENCES)) for entry in entries]}
    return replace(state, own=own, others=tuple(_only(entry, ("mcp_name", "enabled")) for entry in state.others))


def _only(mapping: Mapping[str, object], names: Sequence[str]) -> dict[str, object]:
    return {name: mapping[name] for name in names if name in mapping}


def _flat_entries(state: ClientState) -> tuple[State, ...]:
    """Return the entries that are a whole `mcp_state`, as other programs write it."""
    return (state.own, *state.others) if "mcp_name" in state.own else state.others


def _fault(entry: State) -> str | None:
    """Return why an entry of another program says nothing; None if it does."""
    name = entry.get("mcp_name")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        return f"mcp_name is no text of 1 to {_MAX_NAME} characters"
    if not isinstance(entry.get("enabled", True), bool):
        return "enabled is neither true nor false"
    return None


def _entries(state: State) -> list[object] | None:
    """Return the list of agent entries; None if the stored value is not a list."""
    written = state.get("agents", [])
    return list(written) if is_list(written) else None


def _typed(setting: str, value: object) -> object | None:
    match setting:
        case "enabled":
            return value if isinstance(value, bool) else None
        case "model":
            return typed_setting("default_model", value)
        case _:
            return typed_setting(setting, value)


def _named(name: str) -> tuple[str | None, str]:
    agent, _, setting = name.rpartition(".")
    if agent and setting in AGENT_PREFERENCES:
        return agent, setting
    if name in DEFAULTS:
        return None, name
    of_agent = ", ".join(f"AGENT.{setting}" for setting in AGENT_PREFERENCES)
    raise InvalidRequestError(
        f"There is no preference {one_line(name, 60)!r}; "
        f"there are: {', '.join(DEFAULTS)}, and of each agent {of_agent}."
    )


def _checked(name: str, agent: str | None, setting: str, value: object, entries: Sequence[CatalogueEntry]) -> object:
    """Validate a value and convert it to its type."""
    typed = _typed(setting, _parsed(setting, value))
    if agent is not None:
        check_names((agent,), "agent", [entry.name for entry in entries], name)
    borrows = any(entry.name == agent and entry.borrows_models for entry in entries)
    check_setting(setting, typed, [entry for entry in entries if borrows or agent in (None, entry.name)], name)
    return typed


def _parsed(setting: str, value: object) -> object:
    """Convert a value that was given as text, on the command line or in a tool argument."""
    if not isinstance(value, str):
        return value
    try:
        match setting:
            case "enabled":
                return {"true": True, "false": False}.get(value.strip().lower())
            case "temperature":
                return float(value)
            case "max_tokens":
                return int(value)
            case _:
                return value
    except ValueError:
        return None


def _edit_default(setting: str, value: object | None) -> Callable[[State], State]:
    def edit(state: State) -> State:
        return {**state, "defaults": _with(as_object(state.get("defaults")), setting.removeprefix("default_"), value)}

    return edit


def _edit_agent(agent: str, setting: str, value: object | None) -> Callable[[State], State]:
    """Build an edit of one entry that preserves other entries, and unknown keys of this one."""

    def edit(state: State) -> State:
        entries = _entries(state)
        if entries is None:
            raise InvalidRequestError(
                "Something else than a list of agents is written in this client's mcp_state (`agents`), and stays."
            )
        at = next((at for at, entry in enumerate(entries) if as_object(entry).get("mcp_name") == agent), len(entries))
        if at >= _MOST_AGENTS:
            raise InvalidRequestError(f"At most {_MOST_AGENTS} agents have preferences in a client.")
        own = _with(as_object(entries[at]) if at < len(entries) else {"mcp_name": agent}, setting, value)
        # An entry with a name alone sets nothing, and is left out.
        return {**state, "agents": [*entries[:at], *([own] if len(own) > 1 else ()), *entries[at + 1 :]]}

    return edit


def _with(mapping: Mapping[str, object], name: str, value: object | None) -> Mapping[str, object]:
    rest = {key: each for key, each in mapping.items() if key != name}
    return rest if value is None else {**rest, name: value}
