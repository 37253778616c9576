"""Organisations as JSON."""

from dataclasses import asdict

from agentapi_mcp.core.catalogue.models import Organization
from agentapi_mcp.presentation.models import OrganizationOut


def organization_out(organization: Organization) -> OrganizationOut:
    """Serialize an organisation."""
    return OrganizationOut.model_validate({**asdict(organization), "id": str(organization.id)})
