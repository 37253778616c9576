"""Merge the parameters of a turn from request, session, client preferences and organisation settings."""

from collections.abc import Mapping

from agentapi_mcp.base.json_values import as_text
from agentapi_mcp.core.catalogue.models import AgentPreferences, OrganizationSettings
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.catalogue.policy import typed_setting


def merge_parameters(
    given: Parameters, session: Mapping[str, object], client: AgentPreferences, organization: OrganizationSettings
) -> Parameters:
    """Choose each parameter from the call, else the session, else the client, else the organisation.

    A parameter that none of them sets stays None: the agent's options apply.
    """
    # The organisation's system prompt is not merged here: it is put before all others and never replaced.
    own = {name: typed_setting(name, session.get(name)) for name in ("system_prompt", "temperature", "max_tokens")}
    temperatures = (given.temperature, own["temperature"], client.temperature, organization.temperature)
    lengths = (given.max_tokens, own["max_tokens"], client.max_tokens, organization.max_tokens)
    return Parameters(
        system_prompt=given.system_prompt or as_text(own["system_prompt"]) or client.system_prompt,
        temperature=next((float(each) for each in temperatures if isinstance(each, float | int)), None),
        max_tokens=next((each for each in lengths if isinstance(each, int)), None),
    )
