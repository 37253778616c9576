"""The transport sessions of 2025-era MCP clients over HTTP, which any replica can serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class McpSession:
    """What `initialize` settled (protocol, client, its capabilities) and which resources the client watches."""

    id: str
    protocol: str
    client: Mapping[str, object] = field(default_factory=dict[str, object])
    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])
    watched: frozenset[str] = frozenset()
