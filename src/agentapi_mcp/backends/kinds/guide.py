"""The guide: answers questions about this server from its documentation and live state; it is no model."""

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from decimal import Decimal
from importlib.resources.abc import Traversable

from agentapi_mcp.backends.guide.answers import Answers
from agentapi_mcp.backends.guide.index import Index
from agentapi_mcp.backends.guide.pages import find_documentation, read_sections
from agentapi_mcp.backends.guide.ports import GuideHost
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError
from agentapi_mcp.core.backends.events import BackendEvent, Finished, TextDelta, Usage, UsageReported
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import Capability

# A sentence or a line at a time: what a reader takes in at once.
_PIECE = re.compile(r".+?(?:(?<=[.!?:])[ ]+|\n+|$)", re.DOTALL)


class GuideBackend:
    """Answers in this process, without key or network; its index is built on the first question."""

    capabilities = frozenset({Capability.FREE_CHECK, Capability.STOPS_BILLING})

    def __init__(self, host: GuideHost, find: Callable[[], Traversable] = find_documentation) -> None:
        self._host = host
        self._find = find
        self._answers: Answers | None = None

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Answer in sentences; it costs nothing, which is known and not a guess."""
        answer = await self._ready().answer(turn)
        for piece in _PIECE.findall(answer):
            yield TextDelta(piece)
        yield UsageReported(Usage(cost_usd=Decimal(0)))
        yield Finished()

    async def check(self) -> HealthCheck:
        """See whether the documentation is there."""
        try:
            self._find()
        except ConfigurationError as error:
            return HealthCheck(status=HealthStatus.UNHEALTHY, error=str(error))
        return HealthCheck(status=HealthStatus.HEALTHY)

    async def aclose(self) -> None:
        """Hold nothing, free nothing."""

    def _ready(self) -> Answers:
        if self._answers is None:
            try:
                sections = read_sections(self._find())
            except ConfigurationError as error:
                raise BackendError(BackendFault.BACKEND_MISSING, str(error)) from error
            self._answers = Answers(Index(sections), self._host)
        return self._answers


def create(options: Mapping[str, object], host: GuideHost) -> GuideBackend:
    """Make a guide.

    Raises:
        ConfigurationError: it was given options, of which it has none.
    """
    if options:
        raise ConfigurationError(f"The guide has no options; remove {', '.join(sorted(options))}.")
    return GuideBackend(host)
