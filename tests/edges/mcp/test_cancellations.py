"""A request that is taken back reaches the work with the client's own reason."""

import asyncio

import pytest

from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.edges.mcp.cancellations import Cancellations, ClientConnection, connection, departure


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


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("user pressed stop", Departure.STOPPED),
        ("AbortError: This operation was aborted", Departure.STOPPED),
        ("interrupted", Departure.STOPPED),
        ("McpError: MCP error -32001: Request timed out", Departure.TIMED_OUT),
        ("McpError: MCP error -32001: Maximum total timeout exceeded", Departure.TIMED_OUT),
        ("TimeoutError: The operation was aborted due to timeout", Departure.TIMED_OUT),
        ("timed out after 5.0s", Departure.TIMED_OUT),
        ("request timeout", Departure.TIMED_OUT),
        ("context deadline exceeded", Departure.TIMED_OUT),
        ("TimeLimit of the tool", Departure.TIMED_OUT),
        ("Maximum wait time exceeded", Departure.TIMED_OUT),
        ("the call took too long", Departure.TIMED_OUT),
        ("No response within 30000ms", Departure.TIMED_OUT),
        ("lease expired", Departure.TIMED_OUT),
        ("MCP error -32001", Departure.TIMED_OUT),
        ("caller cancelled", Departure.STOPPED),
        ("context canceled", Departure.STOPPED),
        ("", Departure.STOPPED),
        (None, Departure.STOPPED),
        (7, Departure.STOPPED),
        ("x" * 200 + " timed out", Departure.STOPPED),
    ],
)
def test_the_words_of_clients_tell_a_time_out_from_stop(reason: object, left: Departure) -> None:
    assert departure(reason) is left


@pytest.mark.parametrize(
    ("said", "heard"),
    [("user pressed stop", Departure.STOPPED), (None, Departure.STOPPED), ("-32001", Departure.TIMED_OUT)],
)
async def test_how_a_caller_left_reaches_the_work_though_it_is_told_after_the_cancellation(
    said: object, heard: Departure
) -> None:
    cancellations, work = Cancellations(), Work()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(cancellations.run((0, "7"), work))
        await work.begun.wait()
        request.cancel("Cancelled via cancel scope 1 by <Task at /home/user/x.py>")
        asyncio.get_running_loop().call_soon(cancellations.set_reason, (0, "7"), said)
    assert work.words == (heard,)


@pytest.mark.parametrize(("said", "heard"), [(None, Departure.CLIENT_GONE), ("stop it", Departure.STOPPED)])
async def test_a_request_that_ends_with_its_connection_was_not_stopped(said: str | None, heard: Departure) -> None:
    cancellations, work, client = Cancellations(), Work(), ClientConnection()
    connection.set(client)
    async with asyncio.TaskGroup() as group:
        request = group.create_task(cancellations.run((0, "7"), work))
        await work.begun.wait()
        client.ended.set()
        request.cancel()
        if said is not None:  # a client may say why, and go
            cancellations.set_reason((0, "7"), said)
    assert work.words == (heard,)


@pytest.mark.parametrize(("said", "heard"), [(None, Departure.STOPPED), ("-32001", Departure.TIMED_OUT)])
async def test_what_a_client_says_just_before_it_ends_is_heard(said: str | None, heard: Departure) -> None:
    cancellations, work, client = Cancellations(), Work(), ClientConnection()
    connection.set(client)
    async with asyncio.TaskGroup() as group:
        request = group.create_task(cancellations.run((0, "7"), work))
        await work.begun.wait()
        client.set_reason("8", "another one")
        client.set_reason("7", said)
        client.ended.set()
        request.cancel()
    assert work.words == (heard,)
    client.set_reason("7", said)  # has ended, and is forgotten


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
    assert work.words == (Departure.UNCLEAR,)
