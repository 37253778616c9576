"""Organisations as JSON."""

from dataclasses import asdict

from agentapi_mcp.core.catalogue.models import Organization
from agentapi_mcp.presentation.models import OrganizationNumbersOut, OrganizationOut


def organization_out(organization: Organization) -> OrganizationOut:
    """Serialize an organisation."""
    return OrganizationOut.model_validate({**asdict(organization), "id": str(organization.id)})


def describe_usage(numbers: OrganizationNumbersOut) -> str:
    """Describe tokens and cost; what is unknown is called so, and is never zero."""
    unknown = numbers.input_tokens is None or numbers.output_tokens is None
    tokens = "unknown tokens" if unknown else f"{numbers.input_tokens} + {numbers.output_tokens} tokens"
    cost = "unknown cost" if numbers.cost_usd is None else f"${numbers.cost_usd:.4f}"
    return f"{tokens}, {cost}"
