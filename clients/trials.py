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
from clients.running import PromptedRun

from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.presentation.uris import transcript_uri

# How many words the answers have, one a second at full scale.
_SHORT, _RESTARTED, _LONG, _ENDLESS = 2, 20, 90, 10**6
_SEEN_WITHIN = 100.0
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

    def asked(self, message: str) -> int:
        """Count how often the agent's model was asked this."""
        return sum(1 for asked in self.place.provider.asked if message in asked.message)

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
    await trial.run(script)
    found = sum(1 for tool in OURS if named(script.tools or (), tool))
    if found < len(OURS):
        raise FailedError(f"{found} of {len(OURS)} tools")
    return f"{found} tools"


async def chat(trial: Trial) -> str:
    """See that an answer arrives."""
    script = Script([trial.chat(trial.message(_SHORT))])
    await trial.run(script)
    _expect_end(script)
    return "answered"


async def long_turn(trial: Trial) -> str:
    """See that an answer that takes longer than a call may arrives whole, and was asked for once."""
    message = trial.message(_LONG)
    script = Script([trial.chat(message)])
    await trial.run(script)
    _expect_end(script)
    if (times := trial.asked(message)) != 1:
        raise FailedError(f"the agent was asked {times} times")
    return "in one call" if len(script.results) == 1 else f"in {len(script.results)} calls"


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
    if trial.asked(second) != 1:
        raise FailedError(f"the agent was asked {trial.asked(second)} times")
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
    _expect_end(script)
    if (times := trial.asked(message)) != 1:
        raise FailedError(f"the agent was asked {times} times")
    return "answered"


def _expect_end(script: Script) -> None:
    if not script.results or THE_END not in script.results[-1]:
        raise FailedError(f"no whole answer: {script.results[-1:]}")


TRIALS: dict[str, Callable[[Trial], Awaitable[str]]] = {
    "first turn": first_turn,
    "chat": chat,
    "90 s turn": long_turn,
    "stop": stop,
    "resource": resource,
    "restart between": between,
    "restart during": during,
}
OVER_HTTP = frozenset({"restart between", "restart during"})
