"""Models of MCP clients: what is stored of each, and the transport sessions of those with the 2025 protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from agentapi_mcp.core.identity.principals import Principal

State = Mapping[str, object]

# How the names of our own trials begin, which are no clients of anybody's.
TRIAL = "agentapi-mcp connect"


@dataclass(frozen=True, slots=True)
class ClientState:
    """The `mcp_state` of a client; `others` are rows that other programs wrote for its user, the last to expire first.

    `age` is how long ago the rows were read.
    """

    own: State
    others: tuple[State, ...] = ()
    age: timedelta = timedelta(0)


def client_session_id(principal: Principal, client: str) -> str:
    """Return the `session_id` of a client's row, the same for each of its connections."""
    return f"{principal.user_id}/{principal.org_id}/{client}"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpSession:
    """A transport session: the result of `initialize`, and the resources that the client watches."""

    id: str
    protocol: str
    client: Mapping[str, object] = field(default_factory=dict[str, object])
    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])
    watched: frozenset[str] = frozenset()
