"""The command: alone it is the MCP server over stdio, with words it is the command line."""

import gc
import os
import sys
from importlib import import_module

_TOOLSETS, _PREFIX = "--toolsets", "--tool-prefix"
_COMPLETE = "_AGENTAPI_MCP_COMPLETE"  # set by the script of `completion`
_BY_HAND = (
    "This is an MCP server on standard input and output, which MCP clients start: it waits for their messages.\n"
    "To talk to your agents, run `agentapi-mcp chat`; to set up your clients, `agentapi-mcp connect`.\n"
    "Ctrl-D or Ctrl-C ends it; `agentapi-mcp --help` lists the commands."
)


def main() -> None:
    """Run what the arguments ask for; each way imports what it needs, and the stdio path no command-line library."""
    if _COMPLETE in os.environ:  # noqa: TID251  # as below
        import_module("agentapi_mcp.base.preparation").prepare()
        import_module("agentapi_mcp.cli.completions").complete()
        return
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
    if sys.stdin is not None and sys.stdin.isatty():
        signals = import_module("signal")
        signals.signal(signals.SIGINT, signals.SIG_DFL)  # a person who presses Ctrl-C wants no traceback of imports
        import_module("agentapi_mcp.cli.terminal").print_err(_BY_HAND)
    if sys.platform != "win32":  # without the sockets that it needs
        import_module("agentapi_mcp.resident.entry").serve(toolsets)  # it returns where no server is shared
    # First of all, and with next to nothing imported: clients ask their model without our tools meanwhile.
    front = import_module("agentapi_mcp.edges.mcp.front.thread").start(toolsets)
    import_module("agentapi_mcp.base.preparation").prepare()
    import_module("agentapi_mcp.cli.terminal").clean_streams()
    import_module("agentapi_mcp.cli.stdio").main(toolsets, front)


def _run() -> None:
    import_module("agentapi_mcp.base.preparation").prepare()
    terminal = import_module("agentapi_mcp.cli.terminal")
    terminal.open_closed_streams()
    terminal.clean_streams()
    try:
        import_module("agentapi_mcp.cli.main").main()
    finally:
        # The interpreter looks for garbage as it ends, which is a fifth of the time of most commands.
        gc.freeze()


if __name__ == "__main__":
    main()
