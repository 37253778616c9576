"""The command: alone it is the MCP server over stdio, with words it is the command line."""

import sys
from importlib import import_module


def main() -> None:
    """Run what the arguments ask for; the stdio path imports no command-line library."""
    module = "agentapi_mcp.cli.commands" if len(sys.argv) > 1 else "agentapi_mcp.cli.stdio"
    import_module(module).main()


if __name__ == "__main__":
    main()
