"""What changes on a database, told to the users who may read it."""

from collections.abc import Callable

from agentapi_mcp.core.identity.principals import Action, Principal, refusal
from agentapi_mcp.core.signals import Signal, SignalKind, Signals

_OF_A_SESSION = frozenset({SignalKind.SESSION_CHANGED, SignalKind.SESSIONS_CHANGED, SignalKind.ENDED})


class ChangeFeed:
    """Changes of the catalogue, and of a user's own sessions; at most once, so subscribers also read again."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def subscribe(self, principal: Principal, listener: Callable[[Signal], None]) -> Callable[[], None]:
        """Call the listener for every change that the principal may read, until the returned function is called."""

        def hear(signal: Signal) -> None:
            if may_hear(principal, signal):
                listener(signal)

        return self._signals.subscribe(hear)


def may_hear(principal: Principal, signal: Signal) -> bool:
    """Tell whether a signal is a change that the principal may read: of their sessions, those in this organisation."""
    if refusal(principal, Action.READ_SESSIONS) is not None:
        return False
    if signal.kind is SignalKind.CATALOGUE_CHANGED:
        return True
    is_theirs = (signal.user_id, signal.org_id) == (principal.user_id, principal.org_id)
    return is_theirs and signal.kind in _OF_A_SESSION
