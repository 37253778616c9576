"""The commands: each module here is one, or a group of them, and has its name."""

# The first sentence of the help of each, so that the help of the program imports none of them.
SUMMARIES = {
    "accounts": "Connect accounts of your own at providers, which pay for your messages.",
    "agents": "See which agents there are, and add or remove your own.",
    "audit": "See what happened in your organisation, newest first: who, from where, what, and how it ended.",
    "chat": "Ask an agent: one MESSAGE, a message from a pipe, or a conversation.",
    "connect": "Make an MCP client start this server: try that, then write its configuration.",
    "disconnect": "Undo `connect`.",
    "doctor": "Check every part, and print for each fault the line that mends it.",
    "keys": "Keep API keys of your own, used instead of the server's.",
    "members": "See who is in your organisation, invite people, and say what they may do.",
    "migrate": "Bring the database to this version.",
    "models": "See which models there are, and bring what the provider's list says of them.",
    "organization": "See and set what holds for everybody in your organisation.",
    "preferences": "See and set what you take in each of your MCP clients.",
    "secrets": "Look after the master keys, which seal what is secret in the database.",
    "serve": "Be the MCP server over HTTP: Streamable HTTP at /mcp, SSE for old clients at /sse.",
    "sessions": "Find, read, export, rename and delete conversations.",
    "status": "Show the servers that clients over stdio share, and those clients.",
    "stop": "End the servers that clients over stdio share; the next call of a client starts one again.",
    "tokens": "Make, list and revoke personal tokens, with which programs use the server over HTTP.",
    "turns": "List turns, look at one, or end one, from any terminal.",
}
