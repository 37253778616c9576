"""A backend host for tests."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar, cast

from typing_extensions import override

from agentapi_mcp.backends.guide.ports import ServerView
from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.core.catalogue.health import PartHealth
from agentapi_mcp.core.catalogue.models import AgentView
from agentapi_mcp.core.conversations.models import Session, Turn
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.usage.models import UsageSums

T = TypeVar("T")


@dataclass
class FakeView(ServerView):
    """A server view with the content that the test sets."""

    listed: tuple[AgentView, ...] = ()
    turns: tuple[Turn, ...] = ()
    probed: tuple[PartHealth, ...] = ()
    talks: tuple[Session, ...] = ()

    @override
    async def agents(self, principal: Principal) -> tuple[AgentView, ...]:
        """List the agents of the test."""
        del principal
        return self.listed

    @override
    async def parts(self, principal: Principal) -> tuple[PartHealth, ...]:
        """Tell of the parts of the test."""
        del principal
        return self.probed

    @override
    async def recent_turns(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the turns of the test."""
        del principal
        return self.turns[:limit]

    @override
    async def spent(self, principal: Principal, since: datetime, until: datetime) -> UsageSums:
        """Sum up the turns of the test."""
        del principal
        turns = [turn for turn in self.turns if since <= turn.created_at < until]
        costs = [turn.bill.usage.cost_usd for turn in turns]
        known = [cost for cost in costs if cost is not None]
        return UsageSums(turns=len(turns), cost_nanos=int(sum(known) * 10**9), unpriced=len(costs) - len(known))

    @override
    async def sessions(self, principal: Principal, limit: int) -> tuple[Session, ...]:
        """List the sessions of the test."""
        del principal
        return self.talks[:limit]


@dataclass
class FakeHost:
    """The backend host of one test; exit it after the backends, since it closes what they share."""

    clock: Clock = field(default_factory=SystemClock)
    view: FakeView = field(default_factory=FakeView)
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    _shared: dict[object, AbstractAsyncContextManager[object]] = field(
        default_factory=dict[object, AbstractAsyncContextManager[object]]
    )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._shared:
            _, thing = self._shared.popitem()
            await thing.__aexit__(None, None, None)

    def secret(self, name: str) -> str | None:
        """Return the secret that the test set."""
        return self.secrets.get(name)

    def shared(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return the one object that `make` builds."""
        if make not in self._shared:
            self._shared[make] = make()
        return cast(T, self._shared[make])
