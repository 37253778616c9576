"""Agents and models as JSON and as lines of a list."""

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.base.text import number_of, one_line
from agentapi_mcp.core.catalogue.models import AgentView, ModelView
from agentapi_mcp.core.usage.models import UsageSums
from agentapi_mcp.core.usage.usage import RECENT
from agentapi_mcp.presentation.models import AgentOut, ModelOut
from agentapi_mcp.presentation.usage_words import agent_usage_words
from agentapi_mcp.presentation.values import moment, number

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
        usage=agent_usage(view.usage),
    )


def agent_usage(sums: UsageSums) -> dict[str, object]:
    """Serialize how an agent was used lately: no model, since every client pays for the schema of each field."""
    return {
        "days": RECENT.days,
        "turns": sums.turns,
        "last_used_at": sums.last_at and moment(sums.last_at),
        "success_rate": None if sums.success_rate is None else round(sums.success_rate, 4),
        "latency_p50_ms": to_milliseconds(sums.latency(0.5)),
        "latency_p95_ms": to_milliseconds(sums.latency(0.95)),
        "cost_usd": number(sums.cost_usd),
        "cost_per_turn_usd": number(sums.cost_per_turn_usd),
        "unpriced": sums.unpriced,
    }


def agent_line(agent: AgentOut, used: UsageSums) -> str:
    """Describe an agent in one line of a list, with how it was used lately."""
    state = agent.status.replace("_", " ") if agent.enabled else "disabled"
    missing = f" Missing: {'; '.join(agent.missing)}." if agent.missing else ""
    models = f" Models: {', '.join(agent.models)}." if agent.models else ""
    reason = f" ({agent.backend_reason})" if agent.backend_reason else ""
    lately = f" In the {agent_usage_words(used, RECENT.days)}." if used.turns else ""
    return f"- {agent.name} ({state}; by {agent.backend}{reason}): {agent.description}{models}{missing}{lately}"


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
