"""What is told to an agent with a message, gathered from who may say it."""

from collections.abc import Mapping

from agentapi_mcp.base.json_values import as_text
from agentapi_mcp.core.catalogue.models import AgentPreferences, OrganizationSettings
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.catalogue.policy import typed_setting


def merge_parameters(
    given: Parameters, session: Mapping[str, object], client: AgentPreferences, organization: OrganizationSettings
) -> Parameters:
    """Take the call's, else the session's, else the client's, else the organisation's; then the agent's options hold.

    The organisation's system prompt is not here: it comes before all others and is replaced by none.
    """
    own = {name: typed_setting(name, session.get(name)) for name in ("system_prompt", "temperature", "max_tokens")}
    temperatures = (given.temperature, own["temperature"], client.temperature, organization.temperature)
    lengths = (given.max_tokens, own["max_tokens"], client.max_tokens, organization.max_tokens)
    return Parameters(
        system_prompt=given.system_prompt or as_text(own["system_prompt"]) or client.system_prompt,
        temperature=next((float(each) for each in temperatures if isinstance(each, float | int)), None),
        max_tokens=next((each for each in lengths if isinstance(each, int)), None),
    )
