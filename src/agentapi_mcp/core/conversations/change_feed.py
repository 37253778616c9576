"""Change notifications, filtered by what each user may read."""

from collections.abc import Callable

from agentapi_mcp.core.identity.principals import Action, Principal, refusal
from agentapi_mcp.core.signals import Signal, SignalKind, Signals

_SESSION_KINDS = frozenset({SignalKind.SESSION_CHANGED, SignalKind.SESSIONS_CHANGED, SignalKind.ENDED})


class ChangeFeed:
    """Notify about changes of the catalogue and of a user's own sessions.

    Delivery is at most once, so subscribers must also poll.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def subscribe(self, principal: Principal, listener: Callable[[Signal], None]) -> Callable[[], None]:
        """Call the listener for every change that the principal may read, until the returned function is called."""

        def on_signal(signal: Signal) -> None:
            if may_receive(principal, signal):
                listener(signal)

        return self._signals.subscribe(on_signal)


def may_receive(principal: Principal, signal: Signal) -> bool:
    """Return whether the principal may receive a signal; of their sessions, only those in this organisation."""
    if refusal(principal, Action.READ_SESSIONS) is not None:
        return False
    if signal.kind is SignalKind.CATALOGUE_CHANGED:
        return True
    is_theirs = (signal.user_id, signal.org_id) == (principal.user_id, principal.org_id)
    return is_theirs and signal.kind in _SESSION_KINDS
