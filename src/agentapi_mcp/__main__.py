"""The command: alone it is the MCP server over stdio, with words it is the command line."""

import gc
import os
import sys
from importlib import import_module

_TOOLSETS, _PREFIX = "--toolsets", "--tool-prefix"


def main() -> None:
    """Run what the arguments ask for; each way imports what it needs, and the stdio path no command-line library."""
    options = _options(sys.argv[1:])
    if options is None:
        _run()
        return
    if _PREFIX in options:  # all that serve over stdio read it there: bridge, front and server
        os.environ["AGENTAPI_TOOL_PREFIX"] = options[_PREFIX]  # noqa: TID251  # `Settings` takes half a second to import
    _serve(options.get(_TOOLSETS))


def _options(words: list[str]) -> dict[str, str] | None:
    """Return the options of the server over stdio; None if the words ask for anything else."""
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not equals:
            value = next(rest, "")
        if name not in {_TOOLSETS, _PREFIX} or name in options or not value:
            return None
        options[name] = value
    return options


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
