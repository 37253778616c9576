"""Organisations as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from agentapi_mcp.base.text import listed
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


def describe_undeclared(names: Sequence[str]) -> list[str]:
    """Say of the agents that the settings name and no file declares what becomes of those settings; none: nothing."""
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{listed(names)} {verb} not declared in this server's configuration file: those settings pass over it."]


def describe_usage(numbers: OrganizationNumbersOut) -> str:
    """Describe tokens and cost; what is unknown is called so, and is never zero."""
    unknown = numbers.input_tokens is None or numbers.output_tokens is None
    tokens = None if unknown else f"{numbers.input_tokens} + {numbers.output_tokens} tokens"
    cost = None if numbers.cost_usd is None else f"${numbers.cost_usd:.4f}"
    return f"{_sum('tokens', tokens, numbers.unknown_tokens)}; {_sum('cost', cost, numbers.unknown_costs)}"


def _sum(what: str, known: str | None, missing: int) -> str:
    if known is None:
        return f"unknown {what}"
    turns = "1 turn" if missing == 1 else f"{missing} turns"
    return f"{known} and {turns} of unknown {what}" if missing else known


def describe_limits(limits: Mapping[str, OrganizationLimitOut]) -> list[str]:
    """Describe each limit with how much of it is used."""
    return [f"{name}: {_describe_limit(limit, SHARES[LIMITS[name]].what)}" for name, limit in limits.items()]


def _describe_limit(limit: OrganizationLimitOut, what: str) -> str:
    if limit.most is not None:
        return f"{limit.used:,} of {limit.most:,} {what}"
    unreadable = "" if limit.readable else ", since what is written there is no number"
    return f"{limit.used:,} {what}, no limit{unreadable}"
