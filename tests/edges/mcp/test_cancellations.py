"""A request that is taken back reaches the work with the client's own reason."""

import asyncio

import pytest

from agentapi_mcp.edges.mcp.cancellations import Cancellations


class Work:
    """Goes on until it is cancelled, and remembers with what words."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.words: tuple[object, ...] = ()

    async def __call__(self) -> None:
        """Work."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            self.words = exc.args
            raise


@pytest.mark.parametrize(("said", "heard"), [("user pressed stop", "user pressed stop"), (None, "the client took")])
async def test_the_reason_reaches_the_work_though_it_comes_after_the_cancellation(said: str | None, heard: str) -> None:
    cancellations, work = Cancellations(), Work()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(cancellations.run((0, "7"), work))
        await work.begun.wait()
        request.cancel("Cancelled via cancel scope 1 by <Task at /home/user/x.py>")
        asyncio.get_running_loop().call_soon(cancellations.set_reason, (0, "7"), said)
    assert str(work.words[0]).startswith(heard)
    assert "/home" not in str(work.words[0])


async def test_what_the_work_raises_is_raised_as_it_is() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Cancellations().run((0, "1"), fail)


async def test_a_reason_for_nothing_is_forgotten() -> None:
    cancellations, work = Cancellations(), Work()
    cancellations.set_reason((0, "7"), "user pressed stop")
    async with asyncio.TaskGroup() as group:
        request = group.create_task(cancellations.run((0, "7"), work))
        await work.begun.wait()
        request.cancel()
    assert "user" not in str(work.words[0])
