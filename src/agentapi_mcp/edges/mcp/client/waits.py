"""How long a call waits for an answer, by the client that asks; docs/clients.md tells the same."""

import re
from collections.abc import Mapping
from datetime import timedelta

from agentapi_mcp.edges.mcp.options import LONGEST_WAIT, McpOptions

# Most clients end a call after 60 seconds. Programs on the Python SDK cannot be told apart, since all say `mcp`:
# LangChain, which ends it after 300, as well as the OpenAI Agents SDK, which ends it after 5.
USUAL = timedelta(seconds=45)
# By a word of the name in `clientInfo`, to which proxies such as mcp-remote add their own. These clients are known to
# end a call after another time, and wait for less than that, so that the answer still arrives.
WAITS: Mapping[str, timedelta] = {
    "opencode": timedelta(seconds=25),
    "goose": LONGEST_WAIT,
    "gemini-cli": LONGEST_WAIT,
}


def default_wait(options: McpOptions, client_name: str | None) -> timedelta:
    """Return how long to wait for an answer if the call does not specify it."""
    if options.default_wait is not None:
        return options.default_wait
    name = (client_name or "").lower()
    # As a whole word: others have it within theirs.
    return next((wait for word, wait in WAITS.items() if re.search(rf"(?<![a-z]){word}(?![a-z])", name)), USUAL)
