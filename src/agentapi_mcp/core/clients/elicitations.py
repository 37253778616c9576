"""Elicitations of MCP clients with the 2025 protocol; any replica can receive the answer."""

from collections.abc import Callable, Mapping

from agentapi_mcp.core.clients.ports import ElicitationStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind, Signals


class Elicitations:
    """Elicitations within a client's transport session; they need no right beyond that of the tool call."""

    def __init__(self, store: ElicitationStore, signals: Signals) -> None:
        self._store = store
        self._signals = signals

    async def create(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Record an elicitation before it is sent, so that any process can receive its answer."""
        await self._store.create(principal, session_id, elicitation_id)

    async def answer(
        self, principal: Principal, session_id: str, elicitation_id: str, answer: Mapping[str, object]
    ) -> bool:
        """Record an answer that another process waits for; False if the elicitation is unknown or answered."""
        return await self._store.answer(principal, session_id, elicitation_id, answer)

    async def find_answer(
        self, principal: Principal, session_id: str, elicitation_id: str
    ) -> Mapping[str, object] | None:
        """Find the answer that another process recorded; None until there is one."""
        return await self._store.find_answer(principal, session_id, elicitation_id)

    async def withdraw(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Delete an elicitation once its answer is read, or no longer awaited."""
        await self._store.withdraw(principal, session_id, elicitation_id)

    def on_answer(self, listener: Callable[[str, str], None]) -> Callable[[], None]:
        """Call the listener with the session and elicitation of every answer, until the returned function is called.

        The signal does not carry the answer: read it with `find_answer` as the user of the session.
        """

        # A signal has only ids: the answer is stored in the row of its user's session.
        def on_signal(signal: Signal) -> None:
            if signal.kind is SignalKind.REQUEST_ANSWERED and signal.mcp_session and signal.request_id:
                listener(signal.mcp_session, signal.request_id)

        return self._signals.subscribe(on_signal)
