"""The command: alone it is the MCP server over stdio, with words it is the command line."""

import sys
from importlib import import_module

from agentapi_mcp.cli.terminal import clean_streams


def main() -> None:
    """Run what the arguments ask for; the stdio path imports no command-line library."""
    clean_streams()
    if len(sys.argv) > 1:
        import_module("agentapi_mcp.cli.main").main()
    else:
        prepare_stdio()
        import_module("agentapi_mcp.cli.stdio").main()


def prepare_stdio() -> None:
    """Keep rich out: structlog loads it where something else installed it, for colours that no MCP client sees."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # how an import is turned off (the import system, 5.3.1)


if __name__ == "__main__":
    main()
