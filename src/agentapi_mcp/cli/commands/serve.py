"""`agentapi-mcp serve`: run the MCP server over HTTP."""

from functools import partial

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.options import FILE, tool_prefix_option, toolsets_option
from agentapi_mcp.cli.outputs import guarded

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.cli import serve as serving
else:
    serving = LazyModule("agentapi_mcp.cli.serve")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option("--require-token", "needs_token", is_flag=True, help="Let nobody in without a token.")
@click.option("--insecure", is_flag=True, help="Let others in without a token.")
@click.option("--allowed-host", "hosts", multiple=True, help="A name that clients call this server by; repeatable.")
@click.option("--allowed-origin", "origins", multiple=True, help="A web origin that may call it; repeatable.")
@toolsets_option
@tool_prefix_option
@click.option("--tls-cert", type=FILE, help="The server's certificate with its chain, a PEM file.")
@click.option("--tls-key", type=FILE, help="The private key of that certificate, a PEM file.")
def serve(**values: object) -> None:
    """Be the MCP server over HTTP: Streamable HTTP at /mcp, SSE for old clients at /sse."""
    options = serving.ServeOptions(**values)  # type: ignore[arg-type]  # click checked them
    guarded(partial(serving.serve_http, options), loop_factory=serving.uvloop_factory())
