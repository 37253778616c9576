"""The extension `io.modelcontextprotocol/tasks` (SEP-2663): a slow call is answered later, as a view of its turn."""
