"""A thousand clients of one user, as a process of its own: `crowd.py URL TOKEN CLIENTS TOOL ARGUMENTS`.

Each calls the tool again and again until stdin ends, and connects anew when it was refused. Prints how many calls were
answered and how many were refused, as JSON.
"""

import asyncio
import json
import sys
from collections import Counter
from typing import Any

from benchmarks.client import connect

_PAUSE = 0.2  # seconds, of a client that was refused and does not care when it may come again


async def _client(url: str, token: str, tool: str, arguments: dict[str, Any], counts: Counter[str]) -> None:
    while True:
        try:
            async with connect(url, token) as client:
                while True:
                    await client.call(tool, **arguments)
                    counts["answered"] += 1
        except (AssertionError, OSError, EOFError, ValueError):
            counts["refused"] += 1
            await asyncio.sleep(_PAUSE)  # noqa: TID251  # what such a client does


async def _main(url: str, token: str, clients: int, tool: str, arguments: dict[str, Any]) -> None:
    counts = Counter[str](answered=0, refused=0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_client(url, token, tool, arguments, counts)) for _ in range(clients)]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
    print(json.dumps(counts))


if __name__ == "__main__":
    _, given_url, given_token, count, given_tool, given = sys.argv
    asyncio.run(_main(given_url, given_token, int(count), given_tool, json.loads(given)))
