"""Turns end with the membership of their users."""

import asyncio
import logging
from collections.abc import Mapping

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import OrgId, TurnId, UserId
from agentapi_mcp.core.access.models import MembershipStatus
from agentapi_mcp.core.conversations.models import EndReason
from agentapi_mcp.core.conversations.ports import TurnPorts
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.running_turn import RunningTurn
from agentapi_mcp.core.conversations.turn_callers import Stop
from agentapi_mcp.core.conversations.turn_work import TurnWork

_log = logging.getLogger(__name__)


class MembershipWatch:
    """Stops turns of this process whose users were removed or suspended after they had begun them.

    A member who becomes a viewer begins no more turns, and those that run go on: they may still read the answers.
    """

    def __init__(
        self,
        ports: TurnPorts,
        options: TurnRunnerOptions,
        work: TurnWork,
        runs: Mapping[TurnId, RunningTurn],
        *,
        stop: Stop,
    ) -> None:
        self._profiles = ports.profiles
        self._clock = ports.clock
        self._options = options
        self._work = work
        self._runs = runs
        self._stop = stop
        self._is_failing = False

    async def run(self, busy: asyncio.Event) -> None:
        """Look every few seconds while turns run; apart from the leases, which must not wait for others' tables."""
        while True:
            await busy.wait()
            await self._clock.sleep(self._options.check_members_every)
            try:
                async with asyncio.timeout(self._options.check_members_within.total_seconds()):
                    await self._look()
            except Exception as exc:  # noqa: BLE001  # the outermost point: the turns of the group go on
                if not self._is_failing:
                    expected = isinstance(exc, AgentApiError | TimeoutError)
                    _log.warning("members_not_checked", exc_info=None if expected else exc, extra={"error": str(exc)})
                self._is_failing = True
            else:
                self._is_failing = False

    async def _look(self) -> None:
        running = [run for run in self._runs.values() if not run.answered.is_set()]
        statuses = await self._profiles.membership_statuses({_member_of(run) for run in running})
        for run in running:
            status = statuses[_member_of(run)]
            if status is not MembershipStatus.ACTIVE and self._stop(run, EndReason.ACCESS_REVOKED):
                run.events.append(self._work.stopped_event(run.job, status))
                _log.warning("turn_stopped", extra={"turn_id": str(run.id), "reason": status})


def _member_of(run: RunningTurn) -> tuple[UserId, OrgId]:
    return run.job.principal.user_id, run.job.principal.org_id
