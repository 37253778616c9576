"""What the server asks MCP clients of the 2025 protocol era (elicitation); any replica may receive the answer."""

from collections.abc import Callable, Mapping

from agentapi_mcp.core.clients.ports import ElicitationStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind, Signals


class Elicitations:
    """Questions within a client's transport session; they need no right beyond that of the call that asks them."""

    def __init__(self, store: ElicitationStore, signals: Signals) -> None:
        self._store = store
        self._signals = signals

    async def ask(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Record that the client is being asked; an answer is accepted only after that."""
        await self._store.ask(principal, session_id, elicitation_id)

    async def answer(
        self, principal: Principal, session_id: str, elicitation_id: str, answer: Mapping[str, object]
    ) -> bool:
        """Record the client's answer and tell every process; False when it was not asked, or has answered."""
        return await self._store.answer(principal, session_id, elicitation_id, answer)

    async def find_answer(
        self, principal: Principal, session_id: str, elicitation_id: str
    ) -> Mapping[str, object] | None:
        """Find the client's answer."""
        return await self._store.find_answer(principal, session_id, elicitation_id)

    async def withdraw(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Delete a question together with its answer."""
        await self._store.withdraw(principal, session_id, elicitation_id)

    def on_answer(self, listener: Callable[[str, str], None]) -> Callable[[], None]:
        """Call the listener with session and question of every answer, until the returned function is called.

        It is for the process that asks; the answer itself is read with `find_answer`, as the user who was asked.
        """

        def hear(signal: Signal) -> None:
            if signal.kind is SignalKind.REQUEST_ANSWERED and signal.mcp_session and signal.request_id:
                listener(signal.mcp_session, signal.request_id)

        return self._signals.subscribe(hear)
