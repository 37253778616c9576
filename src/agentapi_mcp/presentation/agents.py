"""Agents and models as JSON and as lines of a list."""

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.base.text import number_of, one_line
from agentapi_mcp.core.catalogue.models import AgentView, ModelView
from agentapi_mcp.presentation.models import AgentOut, ModelOut
from agentapi_mcp.presentation.values import number

_LONGEST_ABOUT = 300


def agent_out(view: AgentView) -> AgentOut:
    """Serialize an agent for tools."""
    return AgentOut(
        name=view.name,
        description=view.description,
        backend=view.backend,
        backend_reason=view.backend_reason,
        enabled=view.enabled,
        status=view.health.status,
        missing=list(view.missing),
        default_model=view.default_model,
        models=[model.name for model in view.models],
        typical_latency_ms=to_milliseconds(view.traffic.latency_p50),
        typical_cost_usd=number(view.traffic.cost_p50_usd),
    )


def agent_line(agent: AgentOut) -> str:
    """Describe an agent in one line of a list."""
    state = agent.status.replace("_", " ") if agent.enabled else "disabled"
    missing = f" Missing: {'; '.join(agent.missing)}." if agent.missing else ""
    models = f" Models: {', '.join(agent.models)}." if agent.models else ""
    reason = f" ({agent.backend_reason})" if agent.backend_reason else ""
    return f"- {agent.name} ({state}; by {agent.backend}{reason}): {agent.description}{models}{missing}"


def model_out(view: ModelView) -> ModelOut:
    """Serialize a model for tools."""
    prices = view.prices
    return ModelOut(
        agent=view.agent,
        name=view.name,
        model_id=view.model_id,
        provider=view.provider,
        description=view.description,
        enabled=view.enabled,
        is_default=view.is_default,
        context_window=view.context_window,
        max_output_tokens=view.max_output_tokens,
        input_price=number(prices.input),
        output_price=number(prices.output),
        cached_input_price=number(prices.cached_input),
        price_source=prices.source,
        price_date=prices.on.isoformat() if prices.on else None,
    )


def model_line(model: ModelOut) -> str:
    """Describe a model in one line of a list."""
    facts = [model.agent, model.provider]
    if model.is_default:
        facts.append("default")
    if not model.enabled:
        facts.append("disabled")
    if model.context_window is not None:
        facts.append(number_of(model.context_window, "token"))
    if model.input_price is not None and model.output_price is not None:
        facts.append(f"${model.input_price:g} in, ${model.output_price:g} out per million")
    about = f": {one_line(model.description, _LONGEST_ABOUT)}" if model.description else ""
    return f"- {model.name} ({', '.join(facts)}){about}"
