"""The TOML of an agent, with comments, as `agents add` writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from tomlkit.items import SingleKey

from agentapi_mcp.cli.model_tables import new_table
from agentapi_mcp.cli.providers import Provider
from agentapi_mcp.cli.toml_edits import written
from agentapi_mcp.core.backends.models import OfferedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAgent:
    """An agent to declare; the first of its models is its default. `day` is when the provider's list was read."""

    name: str
    provider_name: str
    provider: Provider
    base_url: str
    key_variable: str | None
    models: Sequence[OfferedModel]
    day: date


def agent_block(agent: NewAgent) -> str:
    """Write the tables of an agent."""
    key = SingleKey(agent.name).as_string()
    lines = [
        f"[agents.{key}]",
        f"# {agent.provider.title}, by `agentapi-mcp agents add`; {agent.provider.page} explains each key.",
        *_pairs({"backend": agent.provider.backend, "description": f"Models of {agent.provider.title}."}),
        *_pairs({"default_model": agent.models[0].model_id}),
        "",
        f"[agents.{key}.options]",
        *_pairs({"base_url": agent.base_url}),
    ]
    if agent.key_variable is not None:
        lines += ["# The server takes the key from its environment; it is not in this file."]
        lines += _pairs({"api_key": f"${{{agent.key_variable}}}"})
    whose = agent.provider_name
    lines += _pairs({"provider": whose, **agent.provider.options})
    for model in agent.models:
        lines += ["", f"[[agents.{key}.models]]", *_pairs(new_table(model, whose, whose, agent.day))]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, object]) -> list[str]:
    return [f"{name} = {written(value)}" for name, value in values.items()]
