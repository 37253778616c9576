"""`models sync`: bring what a provider's list says of an agent's models into the configuration file."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from agentapi_mcp.app.providers import OfferedModel, declared_agents, offered_models
from agentapi_mcp.base.errors import ConfigurationError, InvalidRequestError, NotFoundError
from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.base.text import listed
from agentapi_mcp.cli import toml_edits
from agentapi_mcp.cli.agent_files import Consent, read_own_file, write_own_file
from agentapi_mcp.cli.config_secrets import secrets_of
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.catalogue.models import AgentDeclaration
from agentapi_mcp.settings import environment, load_settings

_MOST_NEW = 500


async def sync_models(name: str, *, adds_all: bool, yes: bool, dry_run: bool) -> None:
    """Ask the provider of an agent for its models, and write their context windows, output limits and prices.

    Raises:
        BackendError: the provider refuses, or does not answer.
        ConfigurationError: the file cannot be changed, or the agent has no list of models.
        NotFoundError: the operator's file has no such agent.
    """
    environ, settings = environment(), load_settings()
    path, before = read_own_file(settings, environ)
    there = toml_edits.tables(before or "", "agents")
    if before is None or name not in there:
        raise NotFoundError(f"{path} has no agent {name[:64]!r}; there are: {listed(there) or 'none'}.")
    agent = declared_agents(settings, environ)[name]
    offered = {each.model_id: each for each in await _offered(agent, environ)}
    present = [as_object(each) for each in as_list((toml_edits.find(before, ("agents", name)) or {}).get("models"))]
    changes = {at: _change(agent, model, offered.get(str(model["model_id"]))) for at, model in enumerate(present)}
    changes = {at: change for at, change in changes.items() if change}
    known = {str(model["model_id"]) for model in present} | {str(model["name"]) for model in present}
    new = [each for each in offered.values() if each.model_id not in known][:_MOST_NEW] if adds_all else []
    gone = [str(model["name"]) for model in present if model["model_id"] not in offered]
    if gone:
        print_err(f"Not in the provider's list, and left as they are: {listed(gone)}.")
    if not changes and not new:
        print_err(f"{path} says so already; nothing was changed.")
        return
    try:
        after = toml_edits.put_in_list(before, ("agents", name), "models", changes, [_new(agent, each) for each in new])
    except toml_edits.UnsafeEditError as exc:
        raise ConfigurationError(f"{path} says the models of {name} in a way that cannot be changed safely.") from exc
    if write_own_file(path, before, after, secrets_of(environ), Consent(yes, dry_run)):
        print_err(f"Wrote {path}: {len(changes)} models changed, {len(new)} added.")


async def _offered(agent: AgentDeclaration, environ: Mapping[str, str]) -> Sequence[OfferedModel]:
    if agent.missing:
        raise InvalidRequestError(f"{'; '.join(agent.missing)}: the provider's list cannot be read without it.")
    return await offered_models(agent.backend, agent.options, environ)


def _change(agent: AgentDeclaration, model: Mapping[str, object], found: OfferedModel | None) -> dict[str, object]:
    """Return what the list says otherwise of a model."""
    if found is None:
        return {}
    said = _facts(agent, found)
    before = as_object(model.get("prices"))
    prices = as_object(said.get("prices"))
    if all(before.get(key) == prices.get(key) for key in ("input", "output", "cached_input")):
        said.pop("prices", None)  # only the day differs
    return {key: value for key, value in said.items() if model.get(key) != value}


def _new(agent: AgentDeclaration, found: OfferedModel) -> dict[str, object]:
    provider = str(agent.models[0].provider if agent.models else agent.options.get("provider") or agent.name)
    return {"name": found.model_id, "model_id": found.model_id, "provider": provider} | _facts(agent, found)


def _facts(agent: AgentDeclaration, found: OfferedModel) -> dict[str, object]:
    """Return what the list says of a model, as it is written."""
    counts = {"context_window": found.context_window, "max_output_tokens": found.max_output_tokens}
    facts: dict[str, object] = {name: value for name, value in counts.items() if value is not None}
    prices = {"input": found.input_price, "output": found.output_price, "cached_input": found.cached_price}
    known = {name: _number(price) for name, price in prices.items() if price is not None}
    if known:
        facts["prices"] = {**known, "source": f"the list of {agent.name}", "on": datetime.now(UTC).date()}
    return facts


def _number(price: Decimal) -> int | float:
    return int(price) if price == price.to_integral_value() else float(price)
