"""Organisations as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from agentapi_mcp.base.text import listed, number_of
from agentapi_mcp.core.catalogue.models import Organization
from agentapi_mcp.core.catalogue.policy import LIMITS
from agentapi_mcp.core.identity.shares import SHARES
from agentapi_mcp.presentation.models import OrganizationLimitOut, OrganizationNumbersOut, OrganizationOut


def organization_out(organization: Organization) -> OrganizationOut:
    """Serialize an organisation."""
    found = {limit.resource: limit for limit in organization.limits}
    limits = {
        name: {"used": limit.used, "most": limit.most, "readable": limit.readable}
        for name, limit in ((name, found[resource]) for name, resource in LIMITS.items())
    }
    return OrganizationOut.model_validate({**asdict(organization), "id": str(organization.id), "limits": limits})


def describe_size(numbers: OrganizationNumbersOut) -> str:
    """Describe how many members, sessions and messages there are."""
    counts = {"member": numbers.members, "session": numbers.sessions, "message": numbers.messages}
    return ", ".join(number_of(count, what) for what, count in counts.items())


def describe_undeclared(names: Sequence[str]) -> list[str]:
    """Say of the agents that the settings name and no file declares what becomes of those settings; none: nothing."""
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{listed(names)} {verb} not declared in this server's configuration file: those settings pass over it."]


def describe_usage(numbers: OrganizationNumbersOut) -> str:
    """Describe tokens and cost; what is unknown is called so, and is never zero."""
    into, out = numbers.input_tokens, numbers.output_tokens
    tokens = None if into is None or out is None else f"{number_of(into, 'token')} in, {out:,} out"
    cost = None if numbers.cost_usd is None else f"${numbers.cost_usd:.4f}" if numbers.cost_usd else "$0"
    return f"{_sum('tokens', tokens, numbers.unknown_tokens)}; {_sum('cost', cost, numbers.unknown_costs)}"


def _sum(what: str, known: str | None, missing: int) -> str:
    if known is None:
        return f"unknown {what}"
    return f"{known} and {number_of(missing, 'turn')} of unknown {what}" if missing else known


def describe_limits(limits: Mapping[str, OrganizationLimitOut]) -> list[str]:
    """Describe each limit with how much of it is used."""
    return [f"{name}: {_describe_limit(limit, SHARES[LIMITS[name]].what)}" for name, limit in limits.items()]


def _describe_limit(limit: OrganizationLimitOut, what: str) -> str:
    if limit.most is not None:
        return f"{limit.used:,} of {limit.most:,} {what}"
    unreadable = "" if limit.readable else ", since what is written there is no number"
    return f"{limit.used:,} {what}, no limit{unreadable}"
