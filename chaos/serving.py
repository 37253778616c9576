"""Listening on loopback for a while: what is still being served when the while is over is cut off."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Handler) -> AsyncGenerator[int]:
    """Handle connections until the context ends; give the port."""
    tasks = set[asyncio.Task[object]]()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            # Cut off below, and no error: the streams of asyncio would report the cancelled task as one.
            with suppress(asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, backlog=2048, limit=2**22)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        left = tuple(tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
