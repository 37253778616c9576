"""The TOML of an agent, with comments, as `agents add` writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomlkit import item
from tomlkit.items import SingleKey

from agentapi_mcp.app.providers import OfferedModel
from agentapi_mcp.cli.providers import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAgent:
    """An agent to declare; the first of its models is its default. `day` is when the provider's list was read."""

    name: str
    provider_name: str
    provider: Provider
    base_url: str
    key_variable: str | None
    models: Sequence[OfferedModel]
    day: str


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
    lines += _pairs({"provider": agent.provider_name, **agent.provider.options})
    for model in agent.models:
        lines += ["", f"[[agents.{key}.models]]", *_pairs(_model(agent, model)), *_prices(agent, model)]
    return "\n".join(lines) + "\n"


def _model(agent: NewAgent, model: OfferedModel) -> dict[str, object]:
    fields = {
        "name": model.model_id,
        "model_id": model.model_id,
        "provider": agent.provider_name,
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _prices(agent: NewAgent, model: OfferedModel) -> list[str]:
    known = {"input": model.input_price, "output": model.output_price, "cached_input": model.cached_price}
    pairs = [f"{name} = {price:f}" for name, price in known.items() if price is not None]
    if not pairs:
        return []
    source = item(f"{agent.provider.title}'s list").as_string()
    return [f"prices = {{ {', '.join(pairs)}, source = {source}, on = {agent.day} }}"]


def _pairs(values: Mapping[str, object]) -> list[str]:
    return [f"{name} = {item(value).as_string()}" for name, value in values.items()]
