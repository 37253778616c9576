"""The command: alone it is the MCP server over stdio, with words it is the command line."""

import gc
import sys
from importlib import import_module

_OPTION = "--toolsets"


def main() -> None:
    """Run what the arguments ask for; each way imports what it needs, and the stdio path no command-line library."""
    words = sys.argv[1:]
    if not words:
        _serve(None)
    elif words[0] == _OPTION and len(words) == 2:  # noqa: PLR2004  # the option and its value
        _serve(words[1])
    elif words[0].startswith(f"{_OPTION}=") and len(words) == 1:
        _serve(words[0].removeprefix(f"{_OPTION}="))
    else:
        _run()


def _serve(toolsets: str | None) -> None:
    if sys.platform != "win32":  # without the sockets that it needs
        import_module("agentapi_mcp.resident.entry").serve(toolsets)  # it returns where no server is shared
    # First of all, and with next to nothing imported: clients ask their model without our tools meanwhile.
    front = import_module("agentapi_mcp.edges.mcp.front.thread").start(toolsets)
    import_module("agentapi_mcp.base.preparation").prepare()
    import_module("agentapi_mcp.cli.terminal").clean_streams()
    import_module("agentapi_mcp.cli.stdio").main(toolsets, front)


def _run() -> None:
    import_module("agentapi_mcp.base.preparation").prepare()
    import_module("agentapi_mcp.cli.terminal").clean_streams()
    try:
        import_module("agentapi_mcp.cli.main").main()
    finally:
        # The interpreter looks for garbage as it ends, which is a fifth of the time of most commands.
        gc.freeze()


if __name__ == "__main__":
    main()
