"""`models sync`: bring what a provider's list says of an agent's models into the configuration file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from agentapi_mcp.app.providers import declared_agents, offered_models, packaged_agents
from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, InvalidRequestError, NotFoundError
from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.base.text import listed, number_of
from agentapi_mcp.cli import toml_edits
from agentapi_mcp.cli.agent_files import Consent, read_own_file, write_own_file
from agentapi_mcp.cli.config_secrets import secrets_of
from agentapi_mcp.cli.model_tables import changes, declarable, new_table, today
from agentapi_mcp.cli.outputs import print_json
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.backends.models import OfferedModel
from agentapi_mcp.core.catalogue.models import AgentDeclaration
from agentapi_mcp.environ import environment
from agentapi_mcp.settings import load_settings

_MOST_NEW = 500


async def sync_models(name: str, *, adds_all: bool, consent: Consent) -> None:
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
        raise _no_agent(path, name, there)
    agent = declared_agents(settings, environ)[name]
    offered = declarable(await _offered(agent, environ))
    present = [as_object(each) for each in as_list((toml_edits.find(before, ("agents", name)) or {}).get("models"))]
    whose = str(agent.options.get("provider") or name)
    changed = _changed(present, offered, whose)
    known = {str(model["model_id"]) for model in present} | {str(model["name"]) for model in present}
    new = [each for each in offered.values() if each.model_id not in known] if adds_all else []
    gone = [str(model["name"]) for model in present if model["model_id"] not in offered]
    if gone:
        print_err(f"Not in the provider's list, and left as they are: {listed(gone)}.")
    if len(new) > _MOST_NEW:
        print_err(f"The list has {number_of(len(new), 'other')}; {_MOST_NEW} are added. The next run adds more.")
    if not changed and not new:
        print_err(f"{path} says so already; nothing was changed.")
        if consent.as_json:
            print_json({"file": str(path), "change": None, "written": False})
        return
    provider = agent.models[0].provider if agent.models else whose
    tables = [new_table(each, provider, whose, today()) for each in new[:_MOST_NEW]]
    try:
        after = toml_edits.put_in_list(before, ("agents", name), "models", changed, tables)
    except toml_edits.UnsafeEditError as exc:
        raise ConfigurationError(
            f"{path} says the models of {name} in a way that cannot be changed safely: write each below a header of "
            f"its own, [[agents.{name}.models]], with its prices on one line."
        ) from exc
    if write_own_file(path, before, after, secrets_of(environ), consent):
        print_err(f"Wrote {path}: {number_of(len(changed), 'model')} changed, {len(tables)} added.")


def _no_agent(path: Path, name: str, there: Sequence[str]) -> AgentApiError:
    if name in packaged_agents():
        return ConfigurationError(
            f"The agent {name} comes with the program: to have models of your own, declare it in {path}."
        )
    return NotFoundError(f"{path} has no agent {name[:64]!r}; there are: {listed(there)}.")


def _changed(
    present: Sequence[Mapping[str, object]], offered: Mapping[str, OfferedModel], whose: str
) -> dict[int, dict[str, object]]:
    """Return what the list says otherwise of the models that are declared, by their places."""
    found = ((at, model, offered.get(str(model["model_id"]))) for at, model in enumerate(present))
    changed = {at: changes(model, offer, whose, today()) for at, model, offer in found if offer is not None}
    return {at: change for at, change in changed.items() if change}


async def _offered(agent: AgentDeclaration, environ: Mapping[str, str]) -> Sequence[OfferedModel]:
    if agent.missing:
        raise InvalidRequestError(f"{'; '.join(agent.missing)}: the provider's list cannot be read without it.")
    return await offered_models(agent.backend, agent.options, environ)
