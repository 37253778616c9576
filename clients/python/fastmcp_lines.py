"""The client of `fastmcp`: does what it reads on standard input, one JSON object a line; `fastmcp_lines.py TARGET`."""

import asyncio
import json
import sys
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport


async def do(client: Any, asked: dict[str, Any]) -> Any:  # noqa: ANN401  # its answers are unions of unions
    """Do what a line asks for."""
    match asked["what"]:
        case "list":
            return [tool.name for tool in await client.list_tools()]
        case "call":
            result = await client.call_tool(asked["tool"], asked["given"], raise_on_error=False)
            return json.dumps(result.structured_content) if result.structured_content else result.content[0].text
        case _:
            return (await client.read_resource(asked["uri"]))[0].text


async def answer(client: Any, asked: dict[str, Any]) -> None:  # noqa: ANN401  # as above
    """Write what came of it."""
    try:
        told = {"got": await do(client, asked)}
    except Exception as exc:  # noqa: BLE001  # whatever the client raises is what is told
        told = {"failed": repr(exc)}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Connect, and do what is asked."""
    target = json.loads(sys.argv[1])
    server = target["url"] or StdioTransport(target["command"], target["args"], env=target["env"])
    async with Client(server) as client, asyncio.TaskGroup() as group:
        running: asyncio.Task[None] | None = None
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            if asked["what"] == "stop":
                if running is not None:
                    running.cancel()
            else:
                running = group.create_task(answer(client, asked))


if __name__ == "__main__":
    asyncio.run(main())
