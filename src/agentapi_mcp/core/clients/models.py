"""Models of the transport sessions of MCP clients with the 2025 protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class McpSession:
    """A transport session: the result of `initialize`, and the resources that the client watches."""

    id: str
    protocol: str
    client: Mapping[str, object] = field(default_factory=dict[str, object])
    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])
    watched: frozenset[str] = frozenset()
