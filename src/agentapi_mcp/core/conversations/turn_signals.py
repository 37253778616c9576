"""Signals about turns, for whoever follows their session."""

from agentapi_mcp.core.conversations.models import SettledTurn, Turn
from agentapi_mcp.core.signals import Signal, SignalKind


def signal_of(kind: SignalKind, turn: Turn | SettledTurn, *, departure: str | None = None) -> Signal:
    """Return a signal about a turn, with its session and whose it is."""
    return Signal(
        kind,
        turn_id=turn.id,
        session_id=turn.session_id,
        user_id=turn.user_id,
        org_id=turn.org_id,
        departure=departure,
    )
