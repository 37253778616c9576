"""Store how turns end, for as long as it takes, and do what waits for the store meanwhile."""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

from agentapi_mcp.base.errors import NotFoundError, StoreBusyError, StoreError, StoreUnavailableError
from agentapi_mcp.base.places import Places
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.ports import TurnPorts
from agentapi_mcp.core.conversations.running_turn import RunningTurn
from agentapi_mcp.core.conversations.store_watch import StoreWatch
from agentapi_mcp.core.conversations.turn_work import TurnWork

T = TypeVar("T")

_log = logging.getLogger(__name__)
# Of an end that the store refuses, over two minutes: what is refused for a reason of the moment goes through.
_REFUSED_TRIES = 10
_LONGEST_PAUSE = timedelta(seconds=30)
_NOT_STORED = "The answer could not be stored, and the server's log says why. get_turn tells what is known of it."
_DELETED = "The session was deleted before the agent had answered."


class TurnSaver:
    """Writes the ends of one process's turns; `again` is the first pause after a failure."""

    def __init__(
        self, ports: TurnPorts, work: TurnWork, watch: StoreWatch, places: Places, *, owner: UUID, again: timedelta
    ) -> None:
        self._turns = ports.turns
        self._clock = ports.clock
        self._work = work
        self._watch = watch
        self._places = places
        self._owner = owner
        self._again = again

    async def save(self, run: RunningTurn) -> None:
        """Store the outcome of a turn; callers are told of it after that."""
        try:
            await self._write(run)
            if run.lost:
                # Somebody else has ended the turn: what is stored is what callers are told.
                run.stored = await self.through_outages(partial(self._turns.get, run.job.principal, run.id))
        except NotFoundError:
            run.not_stored = NotFoundError(_DELETED)
        except Exception as exc:  # noqa: BLE001  # its lease expires, and a sweep settles it
            _log.error("turn_not_finished", exc_info=exc, extra={"turn_id": str(run.id)})
            run.not_stored = StoreError(_NOT_STORED)

    async def through_outages(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what a turn needs, as soon as the store can be reached."""
        away = 0
        while True:
            try:
                return await work()
            except StoreUnavailableError:
                away = await self._outage(away)

    async def _write(self, run: RunningTurn) -> None:
        refused = away = 0
        while not run.lost and run.stored is None:
            try:
                run.stored = await self._write_once(run)
                run.lost = run.stored is None
            except StoreUnavailableError as exc:
                if self._watch.is_up:
                    _log.warning("finish_delayed", extra={"turn_id": str(run.id), "error": str(exc)})
                away = await self._outage(away)
            except StoreError as exc:
                refused += not isinstance(exc, StoreBusyError)
                _log.warning("finish_refused", extra={"turn_id": str(run.id), "error": str(exc)})
                if refused >= _REFUSED_TRIES:
                    raise
                await self._clock.sleep(self._pause(max(refused, 1)))

    async def _write_once(self, run: RunningTurn) -> Turn | None:
        ended = run.answer.snapshot(run.job.accepted.turn)
        ending = run.answer.ending(
            self._owner,
            message_id=run.reply_id if ended.reply else None,
            caller_gone=run.caller_gone,
            events=(*run.events, *self._work.end_events(run.job, ended)),
        )
        run.waits_for_place = True
        async with self._places.urgent():
            run.waits_for_place = False
            return await self._turns.finish(run.job.principal, ended, ending)

    async def _outage(self, failures: int) -> int:
        """Wait after failures in a row until the store may be back; return the number of failures."""
        self._watch.failed()
        await self._watch.until_up()
        # Woken at once after an outage; where other statements work, and this one does not, ever later.
        await self._clock.sleep(self._pause(failures))
        return failures + 1

    def _pause(self, failures: int) -> timedelta:
        return timedelta(0) if failures == 0 else min(_LONGEST_PAUSE, self._again * 2 ** min(failures - 1, 10))
