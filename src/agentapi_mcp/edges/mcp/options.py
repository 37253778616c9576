"""Options of the MCP edge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from agentapi_mcp import __version__

DEFAULT_TOOLSET = "core"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpOptions:
    """Options of the edge; without `default_wait` the wait depends on the client (docs/clients.md).

    `toolsets` says which tools a client sees that chooses none, by the names of `toolset_names`; `tool_prefix` is put
    before the name of each.
    `update_every` is the least time between two updates of one transcript.
    One stream, or one session of a client, watches `max_watched` resources at most.
    `extensions` are those of the protocol that the host serves, by name; they may change while the server runs.
    A process records a client anew when it has seen `max_remembered_clients` others since.
    """

    version: str = __version__
    default_wait: timedelta | None = None
    update_every: timedelta = timedelta(seconds=0.5)
    max_watched: int = 200
    max_remembered_clients: int = 1_000
    toolsets: frozenset[str] = frozenset({DEFAULT_TOOLSET})
    tool_prefix: str = ""
    extensions: Mapping[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])


PAGE = 50  # items of a listing
LONGEST_WAIT = timedelta(seconds=240)
