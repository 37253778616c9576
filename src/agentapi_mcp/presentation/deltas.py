"""The names in `_meta` by which a client asks for the pieces of a reply, and by which they come with progress."""

DELTAS_META_KEY = "agentapi-mcp/deltas"  # in a request: how many characters of the reply the client has already
DELTA_META_KEY = "agentapi-mcp/delta"  # in progress: an object of `turn_id`, `offset` in characters, and `text`
