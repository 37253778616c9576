"""Pool of Droid CLI processes: one per chat session, reused, stopped when idle, and limited in number."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from agentapi_mcp.backends.wire.droid_jsonrpc import envelope
from agentapi_mcp.backends.wire.jsonrpc_stdio import JsonRpcError, JsonRpcProcess, Program
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.base.json_values import as_list, as_object, as_text
from agentapi_mcp.core.backends.models import BackendTurn

GRACE = timedelta(seconds=2)


@dataclass(slots=True, eq=False)
class Droid:
    """A running CLI with its session; `last` is the id of the last turn it answered, as in the stored state."""

    process: JsonRpcProcess
    session: str
    models: frozenset[str]
    model: str | None
    last: str | None
    has_forgotten: bool = False
    is_new: bool = False
    busy: bool = True
    idle_timer: asyncio.TimerHandle | None = None


class DroidProcesses:
    """At most `limit` processes by chat session, least recently used first."""

    def __init__(
        self, program: Callable[[str | None], Program], *, limit: int, idle: timedelta, start_timeout: timedelta
    ) -> None:
        self._program = program
        self._limit = limit
        self._idle = idle
        self._start_timeout = start_timeout
        self._droids: dict[SessionId, Droid] = {}
        self._retiring: list[JsonRpcProcess] = []
        self._starting = 0

    async def acquire(self, turn: BackendTurn, model: str | None) -> Droid:
        """Return the running process of the turn's chat session, or a new one that resumes it.

        `model` is the CLI's name for the turn's model; custom models are only read at the start of a process.

        Raises:
            BackendError: all processes are busy, or none can be started.
        """
        droid = self._droids.get(turn.session_id)
        if droid is not None and not droid.busy:
            knows = model is None or not droid.models or model in droid.models or not model.startswith("custom:")
            if not droid.process.has_ended and droid.last == turn.state.get("turn") and knows:
                droid.busy, droid.is_new = True, False
                if droid.idle_timer is not None:
                    droid.idle_timer.cancel()
                return droid
            self.end(turn.session_id)  # it ended, or another process answered turns that this one does not know
        elif droid is not None:
            raise BackendError(BackendFault.OVERLOADED, "The Droid CLI still ends the turn before in this session.")
        self._make_room()
        # Counted while it starts, since other turns call `acquire` meanwhile.
        self._starting += 1
        try:
            droid = await self._start(turn, model)
        finally:
            self._starting -= 1
        self._droids[turn.session_id] = droid
        return droid

    def release(self, session_id: SessionId, droid: Droid) -> None:
        """Keep the process for the session's next turn, until the idle timeout."""
        droid.busy = False
        # To the end: `_make_room` stops the least recently used process first.
        self._droids[session_id] = self._droids.pop(session_id)
        loop = asyncio.get_running_loop()
        droid.idle_timer = loop.call_later(self._idle.total_seconds(), self.end, session_id)

    def end(self, session_id: SessionId, *, at_once: bool = False) -> None:
        """Stop the process of a session: gracefully, or at once when its state is unknown."""
        droid = self._droids.pop(session_id, None)
        if droid is None:
            return
        if droid.idle_timer is not None:
            droid.idle_timer.cancel()
        self._retire(droid.process, at_once=at_once)

    async def aclose(self) -> None:
        """Stop all processes."""
        for session_id in tuple(self._droids):
            self.end(session_id)
        async with asyncio.TaskGroup() as group:
            for process in self._retiring:
                group.create_task(process.aclose(GRACE))

    def _retire(self, process: JsonRpcProcess, *, at_once: bool) -> None:
        self._retiring = [other for other in self._retiring if not other.is_over]
        self._retiring.append(process)
        if at_once:
            process.kill()
        else:
            process.close_soon(GRACE)

    def _make_room(self) -> None:
        while len(self._droids) + self._starting >= self._limit:
            idle = next((name for name, droid in self._droids.items() if not droid.busy), None)
            if idle is None:
                raise BackendError(
                    BackendFault.OVERLOADED,
                    f"All {self._limit} Droid processes that may run here are busy; try again when a turn has ended, "
                    "or let the operator raise max_processes.",
                    retry_after=timedelta(seconds=10),
                )
            self.end(idle)

    async def _start(self, turn: BackendTurn, model: str | None) -> Droid:
        program = self._program(turn.model_id)
        process = await JsonRpcProcess.start(program, envelope)
        try:
            return await self._open(process, turn, model, str(program.cwd))
        except BaseException:
            # Also when cancelled: a process without an owner would run on.
            self._retire(process, at_once=True)
            raise

    async def _open(self, process: JsonRpcProcess, turn: BackendTurn, model: str | None, cwd: str) -> Droid:
        known, last = turn.state.get("session"), turn.state.get("turn")
        loaded: Mapping[str, object] | None = None
        if known is not None:
            try:
                loaded = await process.request("droid.load_session", {"sessionId": known}, self._start_timeout)
            except JsonRpcError:
                known = None  # the CLI has lost the session: start a new one from the history
        if loaded is None:
            begin = {"machineId": "agentapi-mcp", "cwd": cwd, "autonomyLevel": "off", "interactionMode": "auto"}
            begin |= {"modelId": model} if model else {}
            try:
                loaded = await process.request("droid.initialize_session", begin, self._start_timeout)
            except JsonRpcError as exc:
                raise BackendError(BackendFault.BAD_REPLY, "The Droid CLI does not begin a session.") from exc
        session = known or as_text(loaded.get("sessionId"))
        if session is None:
            raise BackendError(BackendFault.BAD_REPLY, "The Droid CLI began a session without a name.")
        names = (as_text(as_object(model).get("id")) for model in as_list(loaded.get("availableModels")))
        return Droid(
            process=process,
            session=session,
            models=frozenset(name for name in names if name),
            model=as_text(as_object(loaded.get("settings")).get("modelId")),
            last=last,
            has_forgotten="session" in turn.state and known is None,
            is_new=known is None,
        )
