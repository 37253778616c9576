"""The command: alone it is the MCP server over stdio, with words it is the command line."""

import gc
import sys
from importlib import import_module


def main() -> None:
    """Run what the arguments ask for; each way imports what it needs, and the stdio path no command-line library."""
    prepare()
    import_module("agentapi_mcp.cli.terminal").clean_streams()
    try:
        import_module("agentapi_mcp.cli.main" if len(sys.argv) > 1 else "agentapi_mcp.cli.stdio").main()
    finally:
        # The interpreter looks for garbage as it ends, which is a fifth of the time of most commands.
        gc.freeze()


def prepare() -> None:
    """Make imports cheap, before there are any."""
    # What a module makes stays: to look for garbage among it would be a tenth of the time of most commands.
    gc.set_threshold(10_000, 20, 20)
    # structlog loads rich where something else installed it, for colours that no log of ours has.
    sys.modules["rich"] = None  # type: ignore[assignment]  # how an import is turned off (the import system, 5.3.1)


if __name__ == "__main__":
    main()
