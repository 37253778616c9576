"""List agents and models, and resolve which of them answers a turn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches

from agentapi_mcp.base.errors import (
    AgentApiError,
    BackendError,
    BackendFault,
    CallerError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.base.ids import AgentId, ModelRowId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.base.paging import Page
from agentapi_mcp.base.text import listed
from agentapi_mcp.core.accounts.models import AccountToken
from agentapi_mcp.core.backends.models import WITHOUT_MODEL, Writer
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.catalogue.agent_views import agent_view, model_views
from agentapi_mcp.core.catalogue.catalogue import (
    LONGEST_SHOWN,
    Catalogue,
    CatalogueEntry,
    find_agent,
    meant_agent,
    shown_name,
)
from agentapi_mcp.core.catalogue.health import Health
from agentapi_mcp.core.catalogue.means import NO_MEANS, Means, Wallet, usable_names
from agentapi_mcp.core.catalogue.models import (
    NO_PREFERENCES,
    AgentDeclaration,
    AgentView,
    ModelRow,
    ModelView,
    OrganizationSettings,
    Preferences,
)
from agentapi_mcp.core.catalogue.policy import CataloguePolicy, allowed, allowed_rows
from agentapi_mcp.core.catalogue.price_list import context_window_of, prices_of
from agentapi_mcp.core.identity.cursors import decode_cursor, encode_cursor
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.mending import Payer
from agentapi_mcp.core.keys.models import KeySource, PaidBy, ProviderKey, plain_provider

LARGEST_PAGE = 500

_LONGEST_QUERY = 500
_ALL_ALLOWED = OrganizationSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The agent, backend and model that answer a turn; `model` is None for an agent without models.

    `key` is the API key of the user or organisation to use, `account` the user's connected account, whose `token` is
    read when the turn is accepted; without either, the operator's key is used. Where another agent lends its model,
    the backend that asks it is `lender`, and `writer` says so to the agent; model, key and account are the lender's.
    `borrowed` is what the session keeps of that: AGENT/MODEL, also where it cannot be used now, or `off`.
    """

    agent_id: AgentId
    agent: str
    declaration: AgentDeclaration
    backend: Backend
    instructions: str | None
    model: ModelRow | None
    key: ProviderKey | None = None
    account: str | None = None
    token: AccountToken | None = None
    lender: Backend | None = None
    writer: Writer | None = None
    borrowed: str | None = None

    @property
    def model_name(self) -> str | None:
        """The model as the turn has it: by its name, or as AGENT/MODEL where another agent lends it."""
        return self.borrowed or self.model_row_name

    @property
    def lending_agent(self) -> str | None:
        """The agent that lends the model, None where none does."""
        return None if self.lender is None or self.writer is None else self.writer.agent

    @property
    def model_row_name(self) -> str | None:
        """The name in the model's row."""
        return self.model.name if self.model else None

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The capabilities of the backend, as far as the one that lends its model has them as well where it matters."""
        if self.lender is None:
            return self.backend.capabilities
        lent = self.lender.capabilities & {Capability.STOPS_BILLING, Capability.LIMITS_ANSWERS}
        return self.backend.capabilities - {Capability.LIVE, Capability.STOPS_BILLING} | lent

    @property
    def key_source(self) -> KeySource:
        """The source of the API key."""
        if self.account is not None:
            return KeySource.ACCOUNT
        return KeySource.SERVER if self.key is None else self.key.key_source

    @property
    def payer(self) -> Payer:
        """With what the turn is asked, for the words of an error."""
        provider = self.account
        if provider is None and self.key is not None and self.model is not None:
            provider = plain_provider(self.model.provider)
        return Payer(self.key_source, provider, self.declaration.key_variables)

    @property
    def paid_by(self) -> PaidBy:
        """With what the turn is asked, for its bill: the provider is the model's, which sends it."""
        provider = self.account
        if provider is None and self.model is not None:
            provider = plain_provider(self.model.provider)
        return PaidBy(self.key_source, provider, None if self.key is None else self.key.key.id)

    @property
    def model_row_id(self) -> ModelRowId | None:
        """The id of the model's row."""
        return self.model.id if self.model else None

    @property
    def context_window(self) -> int | None:
        """The context window of the model in tokens, None when unknown."""
        return context_window_of(self.model) if self.model else None

    @property
    def max_output_tokens(self) -> int | None:
        """The longest answer of the model in tokens, None when unknown."""
        return self.model.max_output_tokens if self.model else None

    def prices_at(self, at: datetime) -> Prices:
        """Return what the model costs at a moment, as far as that is known."""
        return prices_of(self.model, at) if self.model else Prices()


class Agents:
    """Use cases of the catalogue, within the policy of the principal's organisation.

    `wallet` has the keys and accounts of users and organisations; without a `policy` everything is allowed.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        health: Health,
        wallet: Wallet | None = None,
        policy: CataloguePolicy | None = None,
    ) -> None:
        self._policy = policy or CataloguePolicy(catalogue)
        self._catalogue = catalogue
        self._health = health
        self._wallet = wallet

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
        measured = await self._health.measure(page, principal)
        means = await self._means(principal)
        items = tuple(agent_view(means.completes(entry), measured) for entry in page)
        more = len(rest) > len(page)
        return Page(items, encode_cursor(scope, principal, [page[-1].name]) if more else None)

    async def get(self, principal: Principal, name: str) -> AgentView:
        """Return one agent.

        Raises:
            NotFoundError: no agent has this name; the message lists those that exist.
        """
        require(principal, Action.READ_CATALOGUE)
        entry = find_agent(await self._policy.entries(principal), name, await self._policy.undeclared(principal))
        means = await self._means(principal)
        return agent_view(means.completes(entry), await self._health.measure([entry], principal))

    async def names(self, principal: Principal, preferences: Preferences = NO_PREFERENCES) -> list[str]:
        """Return the names of all agents that are not switched off, without a measurement."""
        require(principal, Action.READ_CATALOGUE)
        return [entry.name for entry in _enabled_agents(await self._policy.entries(principal), preferences)]

    async def default(self, principal: Principal, preferences: Preferences = NO_PREFERENCES) -> str | None:
        """Return the agent that answers where none is named; None where there is none."""
        require(principal, Action.READ_CATALOGUE)
        settings, means = await self._policy.settings(principal), await self._means(principal)
        entries = [means.completes(entry) for entry in await self._policy.entries(principal)]
        try:
            return self._default(entries, None, settings, preferences).name
        except (InvalidRequestError, NotFoundError):
            return None

    async def meant(self, principal: Principal, name: str) -> str:
        """Return the name of the agent that another spelling means; the name as it is where none is meant."""
        require(principal, Action.READ_CATALOGUE)
        return meant_agent(await self._policy.entries(principal), name)

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
        wanted, now = _needle(query), self._catalogue.now()
        entries = _enabled_agents(await self._policy.entries(principal), preferences)
        chosen = entries
        if agent is not None:
            chosen = [find_agent(entries, agent, await self._policy.undeclared(principal))]
            agent = chosen[0].name
        models = [model for entry in chosen for model in model_views(entry, now) if _matches_model(model, wanted)]
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
        means: Means = NO_MEANS,
        settings: OrganizationSettings = _ALL_ALLOWED,
        preferences: Preferences = NO_PREFERENCES,
    ) -> Choice:
        """Choose agent and model: the caller's, else the client's preferences, else the organisation's settings.

        A default that the agent does not have, such as a model of another agent, is skipped. One of `means` is used
        if it is for the model's provider; `settings` restrict agents and models. For an agent that borrows,
        `session_model` is the AGENT/MODEL that the session agreed on, and no other agent is ever taken for it.

        Raises:
            NotFoundError: there is no such agent or model.
            InvalidRequestError: it is disabled, or the model belongs to another agent.
            BackendError: the agent lacks configuration; the message names it.
        """
        visible = allowed(await self._catalogue.entries(), settings)
        entries = _enabled_agents(visible, preferences)
        if agent is None:
            agent = self._default([means.completes(each) for each in visible], model, settings, preferences).name
        elif (agent := meant_agent(visible, agent)) in {entry.name for entry in visible} - {
            entry.name for entry in entries
        }:
            raise InvalidRequestError(
                f"You switched the agent {agent} off in this client; set {agent}.enabled to true again."
            )
        entry = next((each for each in entries if each.name == agent), None)
        if entry is None:  # an error, which says what became of an agent that is no longer declared
            entry = find_agent(entries, agent, allowed_rows(await self._catalogue.undeclared(), settings))
        own_model = preferences.of_agent(entry.name).model
        if entry.borrows_models:
            # Never by a default of all agents: who has not named a model for this one has not agreed to its costs.
            wanted = _Wanted(model, session_model, own_model or entry.default_model_name)
            is_operators = model is None and own_model is None and _is_operators(entries, entry, session_model)
            return _borrowing(entries, entry, wanted, _Pays(means, NO_MEANS if is_operators else means))
        defaults = (session_model, own_model, preferences.default_model, settings.default_model)
        return _choice(entries, entry, model, defaults, means)

    async def _means(self, principal: Principal) -> Means:
        if self._wallet is None:
            return NO_MEANS
        try:
            return await self._wallet.means(principal)
        except PermissionDeniedError:  # a principal who may not chat uses no key
            return NO_MEANS

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
        defaults = [preferences.default_agent, meant_agent(entries, settings.default_agent or "")]
        names = {entry.name for entry in enabled}
        # One that this process's file does not declare is skipped: another process may declare it.
        default = next((name for name in defaults if name in names), None)
        # A stable sort: the default comes first, and the others retain their order.
        ranked.sort(key=lambda entry: entry.name != default)
        if not ranked:
            raise _no_agent(entries, settings)
        if model is None:
            return ranked[0]
        return next((entry for entry in ranked if entry.find_model(model) is not None), ranked[0])


def _no_agent(entries: Sequence[CatalogueEntry], settings: OrganizationSettings) -> CallerError:
    if entries:
        return InvalidRequestError("You switched every agent off in this client; switch one on again.")
    if settings.allowed_agents is None:
        return NotFoundError("There is no agent yet; declare one in agentapi.toml.")
    return NotFoundError(
        f"Your organisation allows no agent that this server's configuration file declares: allowed_agents has "
        f"{listed(settings.allowed_agents) or 'none'}. An administrator changes it (`agentapi-mcp organization set "
        "allowed_agents NAME...`), or the operator declares one of them."
    )


def _enabled_agents(entries: Sequence[CatalogueEntry], preferences: Preferences) -> list[CatalogueEntry]:
    return [entry for entry in entries if preferences.of_agent(entry.name).enabled]


def _choice(
    entries: Sequence[CatalogueEntry],
    entry: CatalogueEntry,
    model: str | None,
    defaults: Sequence[str | None],
    means: Means,
) -> Choice:
    reached = _reach(entries, entry, means)
    return _paid(entries, entry, reached, _choose_model(entries, entry, model, defaults), means)


def _paid(
    entries: Sequence[CatalogueEntry],
    entry: CatalogueEntry,
    reached: tuple[Backend, AgentDeclaration],
    chosen: ModelRow | None,
    means: Means,
) -> Choice:
    """Return the choice with the key or the account that pays for it."""
    backend, declaration = reached
    payment = means.choose(declaration, backend, chosen)
    if entry.backend is None and payment.key is None and payment.account is None:
        raise _missing(entries, entry, means, chosen)
    return Choice(
        agent_id=entry.row.id,
        agent=entry.name,
        declaration=declaration,
        backend=backend,
        instructions=entry.row.instructions,
        model=chosen,
        key=payment.key,
        account=payment.account,
    )


@dataclass(frozen=True, slots=True)
class _Pays:
    """What may pay for an agent itself, and for a model that it borrows."""

    own: Means
    lent: Means


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A model to borrow: what the caller names, else what the session agreed on, else a default."""

    named: str | None
    agreed: str | None
    default: str | None


def _borrowing(entries: Sequence[CatalogueEntry], entry: CatalogueEntry, wanted: _Wanted, pays: _Pays) -> Choice:
    """Return an agent that has no models, with that of another one which the caller names, or which is its default.

    A model that is named and cannot be used is refused; a default that cannot be used is told to the agent.
    """
    alone = _paid(entries, entry, _reach(entries, entry, pays.own), None, pays.own)
    agreed = None if wanted.named else wanted.agreed
    model = wanted.named or agreed or wanted.default
    if model is None:
        return alone
    if model == WITHOUT_MODEL:
        return replace(alone, borrowed=WITHOUT_MODEL)
    try:
        lent = _lent(entries, _agreed(entries, entry, model) if agreed else _named(entries, entry, model), pays.lent)
    except AgentApiError as exc:
        if wanted.named is not None:
            raise
        return replace(alone, writer=Writer(agent="", model=model, lacks=str(exc)), borrowed=agreed)
    writer = Writer(
        agent=lent.agent,
        model=lent.model.name if lent.model else model,
        run=lent.backend.run,
        key_variables=lent.declaration.key_variables if lent.key_source is KeySource.SERVER else (),
    )
    return replace(
        alone,
        model=lent.model,
        key=lent.key,
        account=lent.account,
        lender=lent.backend,
        writer=writer,
        borrowed=f"{writer.agent}/{writer.model}",
    )


def _agreed(entries: Sequence[CatalogueEntry], borrower: CatalogueEntry, agreed: str) -> tuple[CatalogueEntry, str]:
    """Return the agent of an AGENT/MODEL that was agreed on, and no other one that has a model of that name or id."""
    agent, _, model = agreed.partition("/")
    owner = next((entry for entry in entries if entry.name == agent != borrower.name), None)
    if owner is not None and owner.find_model(model) is not None:
        return owner, model
    gone = f"There is no agent {agent}" if owner is None else f"The agent {agent} has no model {shown_name(model)}"
    raise NotFoundError(
        f"{gone} that you may use any more. This conversation agreed on that one, so no other is asked: name another "
        f"model, as AGENT/MODEL, or {WITHOUT_MODEL} to go on without."
    )


def _named(entries: Sequence[CatalogueEntry], borrower: CatalogueEntry, model: str) -> tuple[CatalogueEntry, str]:
    """Return the agent that has this model, by the model's name, its id or AGENT/MODEL, and what it calls it."""
    owners = _owners(entries, borrower, model)
    if not owners:
        others = [entry for entry in entries if entry.name != borrower.name]
        known = listed(sorted({one.name for entry in others for one in entry.row.models if one.enabled}))
        raise NotFoundError(f"No agent has a model {shown_name(model)}; there are: {known}.")
    if len(owners) > 1:  # each with a price and a key of its own
        names = listed([f"{entry.name}/{name}" for entry, name in owners])
        raise InvalidRequestError(
            f"Several agents have a model {shown_name(model)}: name one of {names}.", argument="model"
        )
    return owners[0]


def _lent(entries: Sequence[CatalogueEntry], model: tuple[CatalogueEntry, str], means: Means) -> Choice:
    """Return how an agent is asked that lends its model."""
    owner, name = model
    lent = _choice(entries, owner, name, (), means)
    if Capability.RESUME in lent.backend.capabilities:
        raise InvalidRequestError(
            f"The agent {owner.name} has conversations and tools of its own, and lends its model to no other agent.",
            argument="model",
        )
    return lent


def _owners(
    entries: Sequence[CatalogueEntry], borrower: CatalogueEntry, model: str
) -> list[tuple[CatalogueEntry, str]]:
    """Return the other agents that have this model, and what they call it; who names the agent means it alone."""
    others = [entry for entry in entries if entry.name != borrower.name]
    agent, _, rest = model.partition("/")
    named = [(entry, rest) for entry in others if rest and entry.name == agent and entry.find_model(rest) is not None]
    return named or [(entry, model) for entry in others if entry.find_model(model) is not None]


def _is_operators(entries: Sequence[CatalogueEntry], borrower: CatalogueEntry, session_model: str | None) -> bool:
    """Tell whether only the operator's file names the model, for everybody: nobody else agreed to pay for it.

    A session has the model of its last turn, whoever named that: where the server can pay, it does.
    """
    if session_model is None:
        return True
    if borrower.default_model_name is None:
        return False
    default, last = (
        {
            row.id
            for entry, name in _owners(entries, borrower, each)
            if entry.backend and (row := entry.find_model(name))
        }
        for each in (borrower.default_model_name, session_model)
    )
    return not default.isdisjoint(last)


def _reach(entries: Sequence[CatalogueEntry], entry: CatalogueEntry, means: Means) -> tuple[Backend, AgentDeclaration]:
    if not entry.row.enabled:
        raise InvalidRequestError(
            f"The agent {entry.name} is disabled; the operator can enable it. {_instead(entries, means)}"
        )
    backend = entry.backend or entry.keyless
    if backend is None:
        raise _missing(entries, entry, means)
    return backend, entry.declaration


def _missing(
    entries: Sequence[CatalogueEntry], entry: CatalogueEntry, means: Means, model: ModelRow | None = None
) -> BackendError:
    provider = None
    if model is not None and means.keys.can_be_added:
        named = plain_provider(model.provider)
        provider = named if named in entry.declaration.providers else None
    own = f" add a key of your own (`agentapi-mcp keys add {provider}`)," if provider else ""
    usable = listed(usable_names(entries, means))
    return BackendError(
        BackendFault.BACKEND_MISSING,
        f"The agent {entry.name} is not set up: {'; '.join(entry.missing)}.",
        lacks_key_of=provider,
        next_step=f"Set that up and start the program again,{own} or use one of the agents that are set up: {usable}.",
    )


def _instead(entries: Sequence[CatalogueEntry], means: Means) -> str:
    return f"Agents that can be used now: {listed(usable_names(entries, means))}."


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
        f"The model {model.name} of the agent {entry.name} is disabled: agentapi.toml says so, or lacks it. The "
        f"operator can change that; take one of: {_model_names(entry)}."
    )


def _named_model(entries: Sequence[CatalogueEntry], entry: CatalogueEntry, model: str) -> ModelRow:
    found = entry.find_model(model)
    if found is not None:
        return found
    owners = [other.name for other in entries if other.find_model(model) is not None]
    if owners:
        raise InvalidRequestError(
            f"The model {shown_name(model)} belongs to the agent {listed(owners)}, not to {entry.name}; "
            f"name that agent, or a model of {entry.name}: {_model_names(entry)}."
        )
    known = {name: None for one in entry.row.models if one.enabled for name in (one.name, one.model_id)}
    near = get_close_matches(model[:LONGEST_SHOWN], known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has: {_model_names(entry)}."
    raise NotFoundError(f"The agent {entry.name} has no model {shown_name(model)}; {hint}")


def _model_names(entry: CatalogueEntry) -> str:
    return listed(sorted(model.name for model in entry.row.models if model.enabled))


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
