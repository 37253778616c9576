"""Work in many pieces: one piece in each turn of the event loop, counted in turns."""

import asyncio
from collections import Counter

from anyio.lowlevel import checkpoint

from agentapi_mcp.base.concurrency import yield_in_line


async def test_of_all_work_in_pieces_one_goes_on_in_each_turn_of_the_loop() -> None:
    loop_turns, done, is_over = 0, list[tuple[int, str]](), asyncio.Event()

    async def count() -> None:
        nonlocal loop_turns
        while not is_over.is_set():
            loop_turns += 1
            await checkpoint()

    async def work(name: str) -> None:
        for _ in range(20):
            await yield_in_line()
            done.append((loop_turns, name))

    counting = asyncio.ensure_future(count())
    async with asyncio.TaskGroup() as group:
        for name in "abcde":
            group.create_task(work(name))
    is_over.set()
    await counting
    assert max(Counter(turn for turn, _ in done).values()) == 1
    assert done[-1][0] - done[0][0] < 110  # no turn is left out
    assert [name for _, name in done] == list("abcde") * 20


async def test_work_that_is_cancelled_in_line_keeps_nobody_waiting() -> None:
    tasks = [asyncio.ensure_future(yield_in_line()) for _ in range(5)]
    await checkpoint()
    for task in tasks[:4]:
        task.cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True] * 4 + [False]
