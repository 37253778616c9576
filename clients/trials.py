"""What is tried with each client, and what came of it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

from chaos.timing import now
from clients.place import Place
from clients.plain import PlainRun
from clients.provider import OURS, Call, Script, fields_in, named
from clients.recorder import open_recorder
from clients.running import PromptedRun

from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.presentation.uris import transcript_uri

# How many words the answers have, one a second at full scale.
_SHORT, _RESTARTED, _LONG, _LONGER, _ENDLESS = 2, 20, 90, 150, 10**6
# The longest that a call may wait: longer than the answer to it takes.
_WAIT_SECONDS = 240
# At full scale: a stream that is closed ends its turn after 15 seconds, whatever the client.
_SEEN_WITHIN = 60.0
RUNS_ON = "runs on"
THE_END = "the end"


class FailedError(Exception):
    """The client did not do what was tried; the message says what it did."""


@dataclass
class Trial:
    """One client over one transport."""

    place: Place
    begin: Callable[[Script], PromptedRun | PlainRun]
    reading: tuple[str, Callable[[str], Mapping[str, object]]] | None  # the tool, and its arguments for an address

    def message(self, words: int) -> str:
        """Return a message that no other run sends."""
        return f"[[words={words}]] {uuid4().hex}"

    def chat(self, message: str, **more: object) -> Call:
        """Return a call of `chat`."""
        return Call("chat", {"agent": "peer", "message": message, **more})

    def expect_asked_once(self, message: str) -> None:
        """See that the agent's model was asked this once."""
        if (times := sum(1 for asked in self.place.provider.asked if message in asked.message)) != 1:
            raise FailedError(f"the agent was asked {times} times")

    async def run(self, script: Script) -> PromptedRun | PlainRun:
        """Do a script to its end."""
        run = self.begin(script)
        await run.finish()
        if not script.done.is_set():
            raise FailedError(f"gave up after {len(script.results)} results: {script.results[-1:]} {run.said()}")
        return run


async def first_turn(trial: Trial) -> str:
    """See that the first request to the model has the tools."""
    script = Script([Call("list_agents", {})])
    run = await trial.run(script)
    found = sum(1 for tool in OURS if named(script.tools or (), tool))
    if found < len(OURS):
        raise FailedError(f"{found} of {len(OURS)} tools")
    return f"{found} tools in {script.listed_at - run.began:.1f} s"


async def declares(trial: Trial) -> str:
    """Note what the client says of itself when it connects."""
    async with open_recorder(trial.place.url) as recorder:
        trial.place.through = recorder.url
        try:
            await trial.run(Script([Call("list_agents", {})]))
        finally:
            trial.place.through = None
    return recorder.words()


async def chat(trial: Trial) -> str:
    """See that an answer arrives."""
    script = Script([trial.chat(trial.message(_SHORT))])
    await trial.run(script)
    return _expect_end(script)


async def long_turn(trial: Trial) -> str:
    """See that an answer that takes longer than a call may arrives whole, and was asked for once."""
    message = trial.message(_LONG)
    script = Script([trial.chat(message)])
    await trial.run(script)
    _expect_end(script)
    trial.expect_asked_once(message)
    calls = "in one call" if len(script.results) == 1 else f"in {len(script.results)} calls"
    return f"{calls}, of which the client gave up {script.lost}" if script.lost else calls


async def long_call(trial: Trial) -> str:
    """See how long the client waits for one call, with the limit that it has by default."""
    before = len(trial.place.provider.asked)
    run = trial.begin(Script([trial.chat(trial.message(_LONGER), wait_seconds=_WAIT_SECONDS)], follow=False))
    await run.finish()
    script = run.script
    for asked in trial.place.provider.asked[before:]:
        asked.enough.set()
    if script.results and THE_END in script.results[-1]:
        return "answered"
    if not script.told_at:
        raise FailedError(f"neither an answer nor a time-out: {run.said()}")
    return f"gives up after {script.told_at - script.listed_at:.0f} s"


async def stop(trial: Trial) -> str:
    """See that the agent is no longer asked when the user stops, and how long that takes."""
    before = len(trial.place.provider.asked)
    script = Script([trial.chat(trial.message(_ENDLESS), wait_seconds=60)])
    run = trial.begin(script)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run.finish())
        asked = await trial.place.provider.next_asked(before + 1)
        await asked.spoken.wait()
        await run.stop()
        stopped = now()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEEN_WITHIN):
                await asked.ended.wait()
        was_stopped = asked.ended.is_set()
        asked.enough.set()
        running.cancel()
    if not was_stopped:
        return RUNS_ON
    return f"{asked.ended_at - stopped:.1f} s"


async def resource(trial: Trial) -> str:
    """See that the transcript is read as a resource."""
    if trial.reading is None:
        return "has none"
    message, reading = trial.message(_SHORT), trial.reading

    def read(results: Sequence[str]) -> Mapping[str, object]:
        # By the session's id: some clients tell their model the text alone, which has no address.
        return reading[1](transcript_uri(SessionId(UUID(fields_in(results[-1])["session_id"]))))

    script = Script([trial.chat(message), Call(reading[0], read)])
    await trial.run(script)
    if message not in script.results[-1]:
        raise FailedError(f"the transcript is not told: {script.results[-1]}")
    return "read"


async def between(trial: Trial) -> str:
    """See that a session goes on when the server is restarted between two calls of one client."""
    first, second = trial.message(_SHORT), trial.message(_SHORT)

    def go_on(results: Sequence[str]) -> Mapping[str, object]:
        return {"session_id": fields_in(results[-1])["session_id"], "message": second}

    script = Script([trial.chat(first), Call("chat", go_on, before=trial.place.restart_server)])
    await trial.run(script)
    _expect_end(script)
    trial.expect_asked_once(second)
    return "goes on"


async def during(trial: Trial) -> str:
    """See that an answer arrives although the server is restarted, and was asked for once."""
    before = len(trial.place.provider.asked)
    message = trial.message(_RESTARTED)
    script = Script([trial.chat(message)])

    async def restart() -> None:
        asked = await trial.place.provider.next_asked(before + 1)
        await asked.spoken.wait()
        await trial.place.restart_server()

    async with asyncio.TaskGroup() as group:
        group.create_task(restart())
        await trial.run(script)
    trial.expect_asked_once(message)
    return _expect_end(script)


def _expect_end(script: Script) -> str:
    if not script.results or THE_END not in script.results[-1]:
        raise FailedError(f"no whole answer: {script.results[-1:]}")
    return f"answered at try {script.lost + 1}" if script.lost else "answered"


TRIALS: dict[str, Callable[[Trial], Awaitable[str]]] = {
    "first turn": first_turn,
    "declares": declares,
    "chat": chat,
    "90 s turn": long_turn,
    "150 s call": long_call,
    "stop": stop,
    "resource": resource,
    "restart between": between,
    "restart during": during,
}
OVER_HTTP = frozenset({"declares", "restart between", "restart during"})
