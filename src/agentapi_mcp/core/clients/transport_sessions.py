"""Transport sessions over HTTP of MCP clients with the 2025 protocol; any replica can serve them."""

from collections.abc import Callable

from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.clients.ports import TransportSessionStore
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.signals import Signal, SignalKind, Signals

CancellationListener = Callable[[str, str, str], None]


class TransportSessions:
    """Use cases of transport sessions; sessions of other users are treated as absent.

    Opening, finding and closing need no right, since a client connects before its requests are known.
    """

    def __init__(self, store: TransportSessionStore, signals: Signals) -> None:
        self._store = store
        self._signals = signals

    async def open_(self, principal: Principal, session: McpSession) -> None:
        """Store the session of a client that has just initialized; needs no right."""
        await self._store.open_(principal, session)

    async def find(self, principal: Principal, session_id: str) -> McpSession | None:
        """Find the session that a request names, and renew its expiry; None if unknown or ended. Needs no right."""
        return await self._store.find(principal, session_id)

    async def close(self, principal: Principal, session_id: str) -> bool:
        """End a session at its client's request; False if there is none to end. Needs no right."""
        return await self._store.close(principal, session_id)

    async def watch(self, principal: Principal, session_id: str, uri: str, *, most: int, most_of_user: int) -> bool:
        """Check the right to read sessions, and subscribe; False when subscribed to `most` resources already.

        Raises:
            PermissionDeniedError: the principal may not read sessions, to which all such resources belong.
            LimitExceededError: the user's sessions are subscribed to `most_of_user` resources together.
        """
        require(principal, Action.READ_SESSIONS)
        return await self._store.watch(principal, session_id, uri, most=most, most_of_user=most_of_user)

    async def unwatch(self, principal: Principal, session_id: str, uri: str) -> None:
        """End a subscription; unlike `watch`, this needs no right."""
        await self._store.unwatch(principal, session_id, uri)

    async def notify_cancelled(self, principal: Principal, session_id: str, request_id: str, departure: str) -> None:
        """Notify all processes that the client cancelled a request, which any may be serving, and how it left."""
        await self._store.notify_cancelled(principal, session_id, request_id, departure)

    def on_change(self, principal: Principal, session_id: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener when subscriptions change or the session ends, until the returned function is called."""

        def on_signal(signal: Signal) -> None:
            if signal.kind is SignalKind.MCP_SESSION_CHANGED and (signal.user_id, signal.mcp_session) == (
                principal.user_id,
                session_id,
            ):
                listener()

        return self._signals.subscribe(on_signal)

    def on_cancelled(self, listener: CancellationListener) -> Callable[[], None]:
        """Call the listener with session, request and departure of every cancellation, of every user.

        Used by the process that serves the request; session ids are secret, so no check of the user is needed.
        """

        def on_signal(signal: Signal) -> None:
            if signal.kind is SignalKind.REQUEST_CANCELLED and signal.mcp_session and signal.request_id:
                listener(signal.mcp_session, signal.request_id, signal.departure or "")

        return self._signals.subscribe(on_signal)
