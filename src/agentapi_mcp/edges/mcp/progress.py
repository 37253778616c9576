"""Progress notifications of a running turn, with the pieces of its reply for clients that ask for them."""

from dataclasses import dataclass
from datetime import timedelta

from mcp_types import ProgressNotification, ProgressNotificationParams

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.turn_follower import Progress, ProgressReport
from agentapi_mcp.edges.mcp.callers import Context
from agentapi_mcp.presentation.deltas import DELTA_META_KEY, DELTAS_META_KEY
from agentapi_mcp.presentation.text import clean

LONGEST_DELTA = 65_536  # characters
_LEAST_STEP = 0.001
_DELTAS_EVERY = timedelta(seconds=0.1)
_HALF_A_PAIR = "\N{REPLACEMENT CHARACTER}"


@dataclass(slots=True)
class ProgressSender:
    """Sends what is new of a turn to a client that wants it; `sent` counts the reply's characters, None: not asked."""

    context: Context
    sent: int | None
    # MCP requires a value that increases each time, also while the agent is silent: so it is the elapsed seconds.
    reported: float = 0.0

    @classmethod
    def of(cls, context: Context) -> "ProgressSender":
        """Read from the request's `_meta` what its client wants.

        Raises:
            InvalidRequestError: pieces are asked for, and not as a count of characters.
        """
        return cls(context, None if _token(context) is None else _characters_known(context))

    @property
    def report(self) -> ProgressReport | None:
        """What tells the client; None if it gave no token, and so wants nothing."""
        if _token(self.context) is None:
            return None
        if self.sent is None:
            return ProgressReport(self._describe)
        return ProgressReport(self._send_deltas, _DELTAS_EVERY, at_once=True)

    async def finish(self, turn: Turn) -> None:
        """Send what is left of the reply of a turn that has ended, if the client asked for its pieces."""
        if self.sent is not None and turn.status.is_final and len(turn.reply) > self.sent:
            await self._send(turn.id, turn.reply, None)

    async def _describe(self, progress: Progress) -> None:
        await self.context.session.report_progress(self._step(progress.elapsed), message=describe(progress))

    async def _send_deltas(self, progress: Progress) -> None:
        self._step(progress.elapsed)
        # The other half of a character may be in the next piece of the agent's.
        await self._send(progress.turn_id, progress.text.removesuffix(_HALF_A_PAIR), progress.activity)

    async def _send(self, turn_id: TurnId, text: str, activity: str | None) -> None:
        token, sent = _token(self.context), self.sent
        if token is None or sent is None:
            raise AssertionError
        for offset in range(sent, max(len(text), sent + 1), LONGEST_DELTA):
            piece = text[offset : offset + LONGEST_DELTA]
            self.sent = sent = sent + len(piece)
            delta = {"turn_id": str(turn_id), "offset": offset, "text": piece}
            params = ProgressNotificationParams(
                progress_token=token,
                progress=self._step(timedelta(0)),
                message=activity,
                _meta={DELTA_META_KEY: delta},
            )
            await self.context.session.send_notification(ProgressNotification(params=params), self.context.request_id)

    def _step(self, elapsed: timedelta) -> float:
        self.reported = round(max(elapsed.total_seconds(), self.reported + _LEAST_STEP), 3)
        return self.reported


def describe(progress: Progress) -> str:
    """Describe the progress: the agent's activity, the length of the answer so far, and its end."""
    doing = f"{progress.activity}, " if progress.activity else ""
    tail = f": …{clean(progress.tail)}" if progress.tail else ""
    return f"{doing}{number_of(len(progress.text), 'character')} so far{tail}"


def _token(context: Context) -> str | int | None:
    return None if context.meta is None else context.meta.get("progress_token")


def _characters_known(context: Context) -> int | None:
    known: object = (context.meta or {}).get(DELTAS_META_KEY)
    if known is None:
        return None
    if not isinstance(known, int) or isinstance(known, bool) or known < 0:
        raise InvalidRequestError(
            f"_meta of {DELTAS_META_KEY} must be how many characters of the reply are known already: 0, or more."
        )
    return known
