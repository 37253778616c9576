"""The commands: each module here is one, or a group of them, and has its name."""

# The commands by what one wants to do, each with what it does in one line: so the help of the program imports none.
GROUPS = {
    "Talk": {
        "chat": "Ask an agent one message, or hold a conversation.",
    },
    "Agents and models": {
        "agents": "See which agents there are, and add or remove your own.",
        "models": "See the models with their prices, and bring them up to date.",
    },
    "Conversations and cost": {
        "sessions": "Find, read, export, rename and delete conversations.",
        "turns": "List turns, look at one, or end one, from any terminal.",
        "budgets": "See and set what may be spent.",
        "rate": "Say how good a session or an answer was.",
        "tag": "Tag a session, and say of what kind it is.",
        "archive": "Leave a session out of lists, or take that back.",
        "record": "Record a conversation that you had elsewhere.",
        "export": "Write everything of yours to a ZIP archive.",
        "usage": "See what was used and what it cost, by agent, model, day and more.",
    },
    "Clients": {
        "connect": "Make MCP clients start this server.",
        "disconnect": "Undo `connect`.",
        "preferences": "See and set what you take in each of your MCP clients.",
        "status": "Show the servers that clients share, and those clients.",
        "stop": "End the servers that clients share.",
    },
    "Keys and organisation": {
        "keys": "Keep API keys of your own, used instead of the server's.",
        "accounts": "Connect accounts at providers, which pay for your messages.",
        "tokens": "Make, list and revoke tokens for programs over HTTP.",
        "organization": "See and set what holds for everybody in your organisation.",
        "members": "See who is in your organisation, invite people, set roles.",
        "audit": "See what happened in your organisation.",
    },
    "Data": {
        "backup": "Write all sessions, turns, accounts and settings to a file.",
        "restore": "Load a backup.",
        "move": "Copy everything to an empty Postgres database.",
        "reset": "Remove all sessions, turns, accounts and keys.",
        "uninstall": "Take this server out of the clients, and remove its data.",
        "migrate": "Bring the database to this version.",
        "secrets": "Look after the master keys.",
    },
    "Server and program": {
        "serve": "Be the MCP server over HTTP.",
        "doctor": "Check every part, and print what mends each fault.",
        "completion": "Print what makes your shell complete commands and names.",
        "help": "Show the help of a command.",
    },
}
# What people look for, by words that are no commands.
LOOKED_FOR = {
    **dict.fromkeys(("ask", "message", "prompt", "talk"), "chat"),
    **dict.fromkeys(("cost", "costs", "bill", "bills", "billing", "spend", "spending", "spent"), "usage"),
    **dict.fromkeys(("budget", "quota", "quotas", "limit"), "budgets list"),
    "runs": "turns list",
    **dict.fromkeys(("history", "conversation", "conversations", "chats", "threads"), "sessions list"),
    **dict.fromkeys(("list", "ls", "agent", "backends", "providers"), "agents list"),
    **dict.fromkeys(("price", "prices", "pricing"), "models list"),
    **dict.fromkeys(("add", "init", "setup"), "agents add"),
    **dict.fromkeys(("install", "clients", "mcp"), "connect"),
    **dict.fromkeys(("start", "run", "server", "http", "up"), "serve"),
    **dict.fromkeys(("down", "kill", "quit", "shutdown"), "stop"),
    **dict.fromkeys(("cancel", "abort"), "turns cancel"),
    **dict.fromkeys(("check", "config", "configure", "debug", "diagnose", "health", "settings", "test"), "doctor"),
    **dict.fromkeys(("login", "signin", "auth", "oauth"), "accounts connect"),
    **dict.fromkeys(("apikey", "api-key", "api-keys"), "keys add"),
    **dict.fromkeys(("users", "invite", "team"), "members list"),
    **dict.fromkeys(("org", "orgs", "organisation", "limits"), "organization show"),
    **dict.fromkeys(("log", "logs", "events"), "audit"),
    **dict.fromkeys(("import", "load"), "restore"),
    **dict.fromkeys(("dump", "save"), "backup"),
    **dict.fromkeys(("upgrade", "update"), "migrate"),
    **dict.fromkeys(("remove", "delete"), "uninstall"),
    **dict.fromkeys(("search", "find"), "sessions list"),
    "version": "--version",
}
SUMMARIES = {name: summary for group in GROUPS.values() for name, summary in sorted(group.items())}
