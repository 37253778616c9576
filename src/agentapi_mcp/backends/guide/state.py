"""Text about the server's live state: agents, models, recent turns and their costs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from agentapi_mcp.backends.guide.periods import Period
from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.health import PartHealth
from agentapi_mcp.core.catalogue.models import AgentView, ModelView
from agentapi_mcp.core.conversations.costs import NOT_ASKED, REFUSED
from agentapi_mcp.core.conversations.models import EndReason, Session, Turn, TurnStatus
from agentapi_mcp.core.usage.models import UsageSums

_SHOWN_MODELS = 12
_SHOWN_NAMED = 4
_QUOTED = 70
_NEVER = 1970

_HOW_ENDED = {
    TurnStatus.FAILED: "failed",
    TurnStatus.CANCELLED: "was cancelled",
    TurnStatus.INTERRUPTED: "was interrupted",
}
_ENDINGS = {
    EndReason.CANCEL_TURN: "it was cancelled on request.",
    EndReason.ABANDONED: "its client stopped it, or went away, and nobody asked for it again in time.",
    EndReason.ACCESS_REVOKED: "its user was removed from the organisation or suspended; the text so far was kept.",
    EndReason.SHUTDOWN: "the program that ran it was stopped.",
    EndReason.LEASE_EXPIRED: "the program that ran it died, or lost its database; the text so far was kept.",
    EndReason.INTERNAL: "something went wrong inside the server itself; its log (on stderr) has the details.",
}


@dataclass(frozen=True, slots=True)
class LiveState:
    """A snapshot of the live state, turns newest first; `fault` says why it could not be read.

    The `parts` of the server, what was spent in a `period`, and the `sessions` are asked only for who wants to know.
    """

    agents: tuple[AgentView, ...]
    turns: tuple[Turn, ...]
    now: datetime
    fault: str = ""
    parts: tuple[PartHealth, ...] = ()
    period: Period | None = None
    spent: UsageSums | None = None
    sessions: tuple[Session, ...] = ()
    asks_for_period: bool = False


def works(agent: AgentView) -> bool:
    """Return whether an agent is usable now, by its last health check."""
    return agent.enabled and not agent.missing and agent.health.status in {HealthStatus.HEALTHY, HealthStatus.DEGRADED}


def condition(agent: AgentView, now: datetime) -> str:
    """Describe an agent's health, and what it lacks."""
    if not agent.enabled:
        return "switched off by the operator"
    if agent.missing:
        return "not set up: " + "; ".join(agent.missing)
    health = agent.health
    when = f", checked {ago(now - health.checked_at)}" if health.checked_at else ""
    if health.status is HealthStatus.HEALTHY:
        return f"works{when}"
    if health.status is HealthStatus.UNKNOWN:
        return "set up, but nobody has measured it yet"
    conditions = {HealthStatus.DEGRADED: "works, with trouble", HealthStatus.UNHEALTHY: "does not work"}
    error = f": {health.last_error.rstrip('.')}" if health.last_error else ""
    return f"{conditions.get(health.status, 'not set up')}{when}{error}"


def list_agents(state: LiveState) -> str:
    """List which agents work now, and what the others lack."""
    if not state.agents:
        return "There is no agent in the catalogue that you may use."
    working = [agent for agent in state.agents if works(agent)]
    count = "No agent works right now"
    if working:
        some = f"{len(working)} of {number_of(len(state.agents), 'agent')} work right now"
        count = some if len(working) < len(state.agents) else "Every agent works right now"
    lines = [f"- **{agent.name}**: {condition(agent, state.now)}.{_purpose(agent)}" for agent in state.agents]
    return f"{count}.\n\n" + "\n".join(lines)


def describe_parts(state: LiveState) -> str:
    """Say which parts of the server do not work, or that all do."""
    troubled = [part for part in state.parts if part.status is not HealthStatus.HEALTHY]
    if not troubled:
        return f"The parts of the server work: {', '.join(part.name for part in state.parts)}."
    lines = [f"- **{part.name}**: {part.status}, {part.detail.rstrip('.')}." for part in troubled]
    return "Not all parts of the server work:\n\n" + "\n".join(lines)


def _purpose(agent: AgentView) -> str:
    return f" {agent.description.rstrip('.')}." if agent.description else ""


def list_models(state: LiveState, names: Collection[str]) -> str:
    """List the models of the named agents, or of all, and whether each agent is usable."""
    parts = [
        _models_of(agent, state.now) for agent in state.agents if agent.models and (not names or agent.name in names)
    ]
    return "\n\n".join(parts) or "No agent in the catalogue has models."


def describe_named(state: LiveState, agents: Collection[str], models: Collection[str]) -> str:
    """Describe the agents and models that a question names."""
    parts = [describe_agent(agent, state.now) for agent in state.agents if agent.name in agents]
    for name in models:
        parts.extend(
            f"{describe_model(model)}.\n\n{agent.name}, which offers it: {condition(agent, state.now)}."
            for agent in state.agents
            for model in agent.models
            if model.name == name and agent.name not in agents
        )
    return "\n\n".join(parts[:_SHOWN_NAMED])


def _models_of(agent: AgentView, now: datetime) -> str:
    lines = [f"- {describe_model(model)}" for model in agent.models[:_SHOWN_MODELS]]
    if len(agent.models) > _SHOWN_MODELS:
        lines.append(f"- and {len(agent.models) - _SHOWN_MODELS} more: `list_models` has them all")
    return f"**{agent.name}** ({condition(agent, now)}):\n\n" + "\n".join(lines)


def describe_model(model: ModelView) -> str:
    """Describe a model's name, size and price in a line; a value without a source is unknown."""
    prices = model.prices
    if prices.input is None or prices.output is None:
        price = "price unknown"
    else:
        price = f"${plain(prices.input)} in and ${plain(prices.output)} out per million tokens"
        price += f" (as of {prices.on})" if prices.on else ""
    window = (
        f"{number_of(model.context_window, 'token')} of context" if model.context_window else "context window unknown"
    )
    marks = ", the default" if model.is_default else ""
    marks += "" if model.enabled else ", switched off"
    return f"`{model.name}`{marks}: {window}, {price}"


def describe_agent(agent: AgentView, now: datetime) -> str:
    """Describe an agent, its models, and how to use it."""
    lines = [f"**{agent.name}** (backend `{agent.backend}`): {condition(agent, now)}.{_purpose(agent)}"]
    if agent.health.consecutive_failures > 1:
        lines.append(f"It failed {number_of(agent.health.consecutive_failures, 'time')} in a row.")
    if agent.models:
        names = ", ".join(f"`{model.name}`" for model in agent.models[:_SHOWN_MODELS])
        lines.append(f"Models: {names}{', …' if len(agent.models) > _SHOWN_MODELS else ''}.")
    if agent.usage.turns:
        lines.append(_usage(agent.usage))
    if works(agent):
        lines.append(
            f"To ask it: `chat` with agent `{agent.name}` in an MCP client, or "
            f'`agentapi-mcp chat --agent {agent.name} "your question"` in a terminal.'
        )
    return "\n".join(lines)


def _usage(sums: UsageSums) -> str:
    median, cost = sums.latency(0.5), sums.cost_per_turn_usd
    parts = [f"{number_of(sums.turns, 'turn')} in the last 30 days, {sums.errors} of them failed"]
    if median is not None:
        parts.append(f"typically {seconds(median)}")
    if cost is not None:
        parts.append(f"${plain(cost)} a turn")
    return "; ".join(parts) + "."


def last_turn(turns: Sequence[Turn]) -> Turn | None:
    """Find the last turn, skipping the guide's own answers unless there is no other."""
    return next((turn for turn in turns if turn.backend != "guide"), turns[0] if turns else None)


def last_failure(turns: Sequence[Turn]) -> Turn | None:
    """Find the newest turn that did not end with an answer."""
    return next((turn for turn in turns if turn.status.is_final and turn.status is not TurnStatus.COMPLETED), None)


def explain_failure(state: LiveState) -> str:
    """Explain why the last turn failed, or else the last failure."""
    turn = last_failure(state.turns)
    if turn is None:
        if len(state.turns) == 1:
            return "Your last turn did not fail."
        count = number_of(len(state.turns), "turn")
        return (
            f"None of your last {count} failed." if state.turns else "You have no earlier turns that could have failed."
        )
    last = last_turn(state.turns)
    lead = ""
    if last is not None and last.id != turn.id and last.created_at > turn.created_at:
        lead = f"Your last turn ({_name(last, state.now)}) was answered. The last one that was not:\n\n"
    return lead + _explain(turn, state.now)


def _explain(turn: Turn, now: datetime) -> str:
    lines = [f"Your turn {_name(turn, now)}, **{_HOW_ENDED.get(turn.status, turn.status)}**.", ""]
    error = turn.error
    if error is not None:
        fault = f" (fault class `{error.fault}`)" if error.fault else ""
        lines.append(f"- What happened: {error.message}{fault}")
        lines.append(f"- Next step: {error.next_step}")
        if error.retry_after is not None:
            lines.append(f"- Wait at least {seconds(error.retry_after)} first.")
    elif turn.end_reason is not None and turn.end_reason in _ENDINGS:
        lines.append(f"- What happened: {_ENDINGS[turn.end_reason]}")
    else:
        lines.append("- What happened: no reason was recorded.")
    route = [
        f"{each.agent}/{each.model or '-'}: {each.outcome} after {to_milliseconds(each.latency)} ms"
        for each in turn.bill.route
    ]
    if route:
        lines.append("- Route taken: " + "; ".join(route))
    if turn.reply:
        lines.append("- What it had answered so far was kept; the session's transcript has it.")
    lines.append(f"- Turn `{turn.id}` in session `{turn.session_id}`.")
    return "\n".join(lines)


def _name(turn: Turn, now: datetime) -> str:
    text = " ".join(turn.message.split())
    quoted = text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"
    return f'"{quoted}" to {turn.agent}, {ago(now - turn.created_at)}'


def describe_costs(state: LiveState) -> str:
    """Describe the cost of the last turn and of recent ones together; unknown never counts as zero."""
    total = [_describe_spending(state.period, state.spent)] if state.period and state.spent else []
    turn = last_turn(state.turns)
    last = (
        "You have no earlier turns, so nothing was spent."
        if turn is None
        else f"Your last turn {_name(turn, state.now)}: {_describe_cost(turn)}"
    )
    # Who asks for a period has it first.
    parts = [*total, last] if state.asks_for_period else [last, *total]
    return "\n\n".join(parts if turn or state.asks_for_period else [last])


def _describe_spending(period: Period, spent: UsageSums) -> str:
    since = "" if period.since.year == _NEVER else f" (from {_day(period.since)} to {_day(period.until)}, UTC)"
    if not spent.turns:
        return f"{period.name}{since}: no turns, so nothing was spent."
    known = "of unknown cost" if spent.cost_usd is None else f"${plain(spent.cost_usd)}"
    text = f"{period.name}{since}: {known} for {number_of(spent.turns, 'turn')}"
    if spent.unpriced:
        text += f", of which the cost of {spent.unpriced:,} is unknown (which is not zero)"
    return f"{text}. What you deleted is in it, too."


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time.hour or time.minute else f"{time:%Y-%m-%d}"


def list_sessions(state: LiveState) -> str:
    """List the newest sessions, and how to go on with one."""
    if not state.sessions:
        return "You have no sessions yet."
    lines = [
        f"- {_title(session)}: with {session.agent or 'an agent that is gone'}, "
        f"{ago(state.now - (session.last_message_at or session.created_at))}, `{session.id}`"
        for session in state.sessions
    ]
    return (
        "Your newest sessions:\n\n" + "\n".join(lines) + "\n\n`agentapi-mcp sessions list`, or the tool "
        "`list_sessions`, has all of them; `chat` with a `session_id` goes on with one."
    )


def _title(session: Session) -> str:
    text = " ".join((session.title or "").split())
    return f'"{text}"' if text else "without a title"


def _describe_cost(turn: Turn) -> str:
    cost = turn.bill
    usage = cost.usage
    how = "" if cost.cost_source in {NOT_ASKED, REFUSED} else "according to "
    source = f" ({how}{cost.cost_source})" if cost.cost_source else ""
    parts = [f"${plain(usage.cost_usd)}{source}" if usage.cost_usd is not None else "cost unknown"]
    counts = [
        number_of(count, f"{kind} token")
        for count, kind in ((usage.input_tokens, "input"), (usage.output_tokens, "output"))
        if count is not None
    ]
    parts.extend(counts)
    if cost.latency is not None:
        parts.append(seconds(cost.latency))
    if cost.billing_may_go_on:
        parts.append("the provider may have gone on billing after the end")
    return ", ".join(parts) + "."


def plain(amount: Decimal) -> str:
    """Write an amount without exponent or trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(duration: timedelta) -> str:
    """Write a duration in seconds."""
    return f"{duration.total_seconds():.1f} s"


def ago(duration: timedelta) -> str:
    """Format how long ago something was, in the largest fitting unit."""
    passed = max(0.0, duration.total_seconds())  # the clock of another machine may be ahead
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(passed // size)
        if count:
            return f"{number_of(count, unit)} ago"
    return "moments ago"
