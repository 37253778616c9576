"""List agents and models, and resolve which of them answers a turn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from agentapi_mcp.base.errors import (
    BackendError,
    BackendFault,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.base.ids import AgentId, ModelRowId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.base.paging import Page
from agentapi_mcp.base.text import listed
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.catalogue.agent_views import agent_view, model_views
from agentapi_mcp.core.catalogue.catalogue import Catalogue, CatalogueEntry
from agentapi_mcp.core.catalogue.health import Health
from agentapi_mcp.core.catalogue.models import (
    NO_PREFERENCES,
    AgentDeclaration,
    AgentView,
    ModelRow,
    ModelView,
    OrganizationSettings,
    Preferences,
)
from agentapi_mcp.core.catalogue.policy import CataloguePolicy, allowed
from agentapi_mcp.core.identity.cursors import decode_cursor, encode_cursor
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.api_keys import ApiKeys, AvailableKeys
from agentapi_mcp.core.keys.models import KeySource, ProviderKey, plain_provider

LARGEST_PAGE = 500

_LONGEST_QUERY = 500
_LONGEST_SHOWN = 60
_NO_KEYS = AvailableKeys()
_ALL_ALLOWED = OrganizationSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The agent, backend and model that answer a turn; `model` is None for an agent without models.

    `key` is the API key of the user or organisation to use; None means the operator's.
    """

    agent_id: AgentId
    agent: str
    declaration: AgentDeclaration
    backend: Backend
    instructions: str | None
    model: ModelRow | None
    key: ProviderKey | None = None

    @property
    def key_source(self) -> KeySource:
        """The source of the API key."""
        return KeySource.SERVER if self.key is None else self.key.key_source

    @property
    def model_row_id(self) -> ModelRowId | None:
        """The id of the model's row."""
        return self.model.id if self.model else None

    @property
    def context_window(self) -> int | None:
        """The context window of the model in tokens, None when unknown."""
        return self.model.context_window if self.model else None

    @property
    def prices(self) -> Prices:
        """The prices of the model, as far as they are known."""
        return self.model.prices if self.model else Prices()


class Agents:
    """Use cases of the catalogue, within the policy of the principal's organisation.

    `api_keys` are the keys of users and organisations; without a `policy` everything is allowed.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        health: Health,
        api_keys: ApiKeys | None = None,
        policy: CataloguePolicy | None = None,
    ) -> None:
        self._policy = policy or CataloguePolicy(catalogue)
        self._catalogue = catalogue
        self._health = health
        self._api_keys = api_keys

    async def refresh(self) -> None:
        """Reload agents and models now."""
        await self._catalogue.refresh()

    async def list_(
        self,
        principal: Principal,
        *,
        query: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        preferences: Preferences = NO_PREFERENCES,
    ) -> Page[AgentView]:
        """Page through all agents by name, with missing configuration and health; `query` searches models too."""
        require(principal, Action.READ_CATALOGUE)
        wanted = _needle(query)
        entries = _enabled_agents(await self._policy.entries(principal), preferences)
        entries = [entry for entry in entries if _matches_agent(entry, wanted)]
        scope = json.dumps(["agents", wanted])
        after = decode_cursor(cursor, scope, principal) if cursor is not None else None
        rest = [entry for entry in entries if after is None or (entry.name,) > after]
        page = rest[: _page_size(limit)]
        # After the cut: agents of other pages need no measurement.
        measured = await self._health.measure(page)
        keys = await self._available_keys(principal)
        items = tuple(agent_view(_with_keys(entry, keys), measured) for entry in page)
        more = len(rest) > len(page)
        return Page(items, encode_cursor(scope, principal, [page[-1].name]) if more else None)

    async def get(self, principal: Principal, name: str) -> AgentView:
        """Return one agent.

        Raises:
            NotFoundError: no agent has this name; the message lists those that exist.
        """
        require(principal, Action.READ_CATALOGUE)
        entry = _find_agent(await self._policy.entries(principal), name)
        return agent_view(_with_keys(entry, await self._available_keys(principal)), await self._health.measure([entry]))

    async def models(
        self,
        principal: Principal,
        *,
        agent: str | None = None,
        query: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
        preferences: Preferences = NO_PREFERENCES,
    ) -> Page[ModelView]:
        """Page through the models of all agents, or of one, by agent and name."""
        require(principal, Action.READ_CATALOGUE)
        wanted = _needle(query)
        entries = _enabled_agents(await self._policy.entries(principal), preferences)
        chosen = entries if agent is None else [_find_agent(entries, agent)]
        models = [model for entry in chosen for model in model_views(entry) if _matches_model(model, wanted)]
        scope = json.dumps(["models", agent, wanted])
        after = decode_cursor(cursor, scope, principal) if cursor is not None else None
        rest = [model for model in models if after is None or (model.agent, model.name) > after]
        page = rest[: _page_size(limit)]
        more = len(rest) > len(page)
        return Page(tuple(page), encode_cursor(scope, principal, [page[-1].agent, page[-1].name]) if more else None)

    async def resolve(
        self,
        *,
        agent: str | None = None,
        model: str | None = None,
        session_model: str | None = None,
        keys: AvailableKeys = _NO_KEYS,
        settings: OrganizationSettings = _ALL_ALLOWED,
        preferences: Preferences = NO_PREFERENCES,
    ) -> Choice:
        """Choose agent and model: the caller's, else the client's preferences, else the organisation's settings.

        A default that the agent does not have, such as a model of another agent, is skipped. One of `keys` is used if
        it is for the model's provider; `settings` restrict agents and models.

        Raises:
            NotFoundError: there is no such agent or model.
            InvalidRequestError: it is disabled, or the model belongs to another agent.
            BackendError: the agent lacks configuration; the message names it.
        """
        visible = allowed(await self._catalogue.entries(), settings)
        entries = _enabled_agents(visible, preferences)
        if agent is None:
            agent = self._default([_with_keys(each, keys) for each in visible], model, settings, preferences).name
        elif agent in {entry.name for entry in visible} - {entry.name for entry in entries}:
            raise InvalidRequestError(
                f"You switched the agent {agent} off in this client; set {agent}.enabled to true again."
            )
        entry = _find_agent(entries, agent)
        backend, declaration = _reach(entries, entry, keys)
        own_model = preferences.of_agent(entry.name).model
        defaults = (session_model, own_model, preferences.default_model, settings.default_model)
        chosen = _choose_model(entries, entry, model, defaults)
        key = _own_key(keys, declaration, backend, chosen)
        if entry.backend is None and key is None:
            raise _missing(entries, entry, keys, chosen)
        return Choice(
            agent_id=entry.row.id,
            agent=entry.name,
            declaration=declaration,
            backend=backend,
            instructions=entry.row.instructions,
            model=chosen,
            key=key,
        )

    async def _available_keys(self, principal: Principal) -> AvailableKeys:
        if self._api_keys is None:
            return _NO_KEYS
        try:
            return await self._api_keys.available(principal)
        except PermissionDeniedError:  # a principal who may not chat uses no key
            return _NO_KEYS

    def _default(
        self,
        entries: Sequence[CatalogueEntry],
        model: str | None,
        settings: OrganizationSettings,
        preferences: Preferences,
    ) -> CatalogueEntry:
        """Return the default agent, else the first usable one; prefer an agent that has the named model."""
        enabled = _enabled_agents(entries, preferences)
        ranked = sorted(enabled, key=lambda entry: (not entry.usable, *self._catalogue.order(entry)))
        default = next((entry.name for entry in enabled if entry.name == preferences.default_agent), None)
        if default is None and settings.default_agent is not None:
            default = _find_agent(entries, settings.default_agent).name
        # A stable sort: the default comes first, and the others retain their order.
        ranked.sort(key=lambda entry: entry.name != default)
        if entries and not ranked:
            raise InvalidRequestError("You switched every agent off in this client; switch one on again.")
        if not ranked:
            raise NotFoundError("There is no agent yet; declare one in agentapi.toml.")
        if model is None:
            return ranked[0]
        return next((entry for entry in ranked if entry.find_model(model) is not None), ranked[0])


def _enabled_agents(entries: Sequence[CatalogueEntry], preferences: Preferences) -> list[CatalogueEntry]:
    return [entry for entry in entries if preferences.of_agent(entry.name).enabled]


def _reach(
    entries: Sequence[CatalogueEntry], entry: CatalogueEntry, keys: AvailableKeys
) -> tuple[Backend, AgentDeclaration]:
    if not entry.row.enabled:
        raise InvalidRequestError(
            f"The agent {entry.name} is disabled; the operator can enable it. {_instead(entries, keys)}"
        )
    backend = entry.backend or entry.keyless
    if backend is None or entry.declaration is None:
        raise _missing(entries, entry, keys)
    return backend, entry.declaration


def _missing(
    entries: Sequence[CatalogueEntry], entry: CatalogueEntry, keys: AvailableKeys, model: ModelRow | None = None
) -> BackendError:
    provider = None
    if model is not None and entry.declaration is not None and keys.can_be_added:
        named = plain_provider(model.provider)
        provider = named if named in entry.declaration.providers else None
    own = f" add a key of your own (`agentapi-mcp keys add {provider}`)," if provider else ""
    usable = listed(_usable(entries, keys))
    return BackendError(
        BackendFault.BACKEND_MISSING,
        f"The agent {entry.name} is not set up: {'; '.join(entry.missing)}.",
        lacks_key_of=provider,
        next_step=f"Set that up and start the program again,{own} or use one of the agents that are set up: {usable}.",
    )


def _instead(entries: Sequence[CatalogueEntry], keys: AvailableKeys) -> str:
    return f"Agents that can be used now: {listed(_usable(entries, keys))}."


def _usable(entries: Sequence[CatalogueEntry], keys: AvailableKeys) -> list[str]:
    return [entry.name for entry in entries if _with_keys(entry, keys).usable]


def _with_keys(entry: CatalogueEntry, keys: AvailableKeys) -> CatalogueEntry:
    """Return the agent as usable if only a key is missing and `keys` has one for it."""
    model = entry.default_model()
    if entry.keyless is None or entry.declaration is None or model is None:
        return entry
    if plain_provider(model.provider) not in entry.declaration.providers:
        return entry
    if not keys.has(model.provider, (model.name, model.model_id)):
        return entry
    return replace(entry, backend=entry.keyless, missing=())


def _own_key(
    keys: AvailableKeys, declaration: AgentDeclaration, backend: Backend, model: ModelRow | None
) -> ProviderKey | None:
    """Find the caller's key for the model."""
    # The provider must be declared in the operator's file too: a changed row must not redirect keys to another server.
    if model is None or Capability.OWN_KEYS not in backend.capabilities:
        return None
    if plain_provider(model.provider) not in declaration.providers:
        return None
    return keys.find(model.provider, (model.name, model.model_id))


def _choose_model(
    entries: Sequence[CatalogueEntry], entry: CatalogueEntry, model: str | None, defaults: Sequence[str | None]
) -> ModelRow | None:
    if model is not None:
        return _enabled(entry, _named_model(entries, entry, model))
    found = (entry.find_model(default) for default in defaults if default is not None)
    chosen = next((each for each in found if each is not None), None) or entry.default_model()
    if chosen is None and entry.default_model_name is not None:
        raise NotFoundError(
            f"The default model of the agent {entry.name} is not in its list; name one of: {_model_names(entry)}."
        )
    return _enabled(entry, chosen) if chosen else None


def _enabled(entry: CatalogueEntry, model: ModelRow) -> ModelRow:
    if model.enabled:
        return model
    raise InvalidRequestError(
        f"The model {model.name} of the agent {entry.name} is disabled; take one of: {_model_names(entry)}."
    )


def _named_model(entries: Sequence[CatalogueEntry], entry: CatalogueEntry, model: str) -> ModelRow:
    found = entry.find_model(model)
    if found is not None:
        return found
    owners = [other.name for other in entries if other.find_model(model) is not None]
    if owners:
        raise InvalidRequestError(
            f"The model {_shown(model)} belongs to the agent {listed(owners)}, not to {entry.name}; "
            f"name that agent, or a model of {entry.name}: {_model_names(entry)}."
        )
    known = {name: None for one in entry.row.models if one.enabled for name in (one.name, one.model_id)}
    near = get_close_matches(model[:_LONGEST_SHOWN], known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has: {_model_names(entry)}."
    raise NotFoundError(f"The agent {entry.name} has no model {_shown(model)}; {hint}")


def _find_agent(entries: Sequence[CatalogueEntry], name: str) -> CatalogueEntry:
    for entry in entries:
        if entry.name == name:
            return entry
    raise NotFoundError(f"There is no agent {_shown(name)}; there are: {listed([one.name for one in entries])}.")


def _model_names(entry: CatalogueEntry) -> str:
    return listed(sorted(model.name for model in entry.row.models if model.enabled))


def _shown(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…")


def _needle(query: str | None) -> str:
    if query is not None and len(query) > _LONGEST_QUERY:
        raise InvalidRequestError(f"The query is too long; use at most {_LONGEST_QUERY} characters.")
    return (query or "").strip().casefold()


def _page_size(limit: int) -> int:
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidRequestError(f"The limit must be between 1 and {LARGEST_PAGE}.")
    return limit


def _matches_agent(entry: CatalogueEntry, wanted: str) -> bool:
    texts = [entry.name, entry.row.description, *(f"{one.name}\n{one.model_id}" for one in entry.row.models)]
    return any(wanted in text.casefold() for text in texts)


def _matches_model(model: ModelView, wanted: str) -> bool:
    return any(wanted in text.casefold() for text in (model.name, model.model_id, model.description or ""))
