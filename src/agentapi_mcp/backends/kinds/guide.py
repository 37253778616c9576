"""The guide: answers questions about this server from its documentation and live state, without a model."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import lru_cache
from importlib.resources.abc import Traversable

from agentapi_mcp.backends.guide.answers import Answers
from agentapi_mcp.backends.guide.index import Index
from agentapi_mcp.backends.guide.pages import Section, find_documentation, read_sections
from agentapi_mcp.backends.guide.ports import GuideHost
from agentapi_mcp.backends.guide.written import NO_MODEL, NO_USE, plain, written
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError
from agentapi_mcp.core.backends.events import BackendEvent, Finished, UsageReported
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import Capability


class GuideBackend:
    """Answers in process, without key or network; the index is built on the first question."""

    capabilities = frozenset(
        {Capability.FREE_CHECK, Capability.STOPS_BILLING, Capability.LIVE, Capability.BORROWS_MODELS}
    )

    def __init__(self, host: GuideHost, find: Callable[[], Traversable] = find_documentation) -> None:
        self._host = host
        self._find = find
        self._answers: Answers | None = None

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Stream the answer: as a model writes it, where the caller named one; else by sentences, at a cost of zero."""
        answers = self._ready()
        draft = await answers.draft(turn)
        if turn.writer is not None and draft.passages:
            async with aclosing(written(turn, turn.writer, draft, answers.knows)) as events:
                async for event in events:
                    yield event
            return
        for event in plain(draft.text):
            yield event
        yield UsageReported(NO_USE)
        # The model that the turn names was not asked.
        yield Finished(model=None if turn.writer is None else NO_MODEL)

    async def check(self) -> HealthCheck:
        """Check that the documentation is installed."""
        try:
            self._find()
        except ConfigurationError as error:
            return HealthCheck(status=HealthStatus.UNHEALTHY, error=str(error))
        return HealthCheck(status=HealthStatus.HEALTHY)

    async def aclose(self) -> None:
        """Do nothing: there are no resources."""

    def _ready(self) -> Answers:
        if self._answers is None:
            try:
                sections = read_sections(self._find())
            except ConfigurationError as error:
                raise BackendError(BackendFault.BACKEND_MISSING, str(error)) from error
            self._answers = Answers(_index_of(sections), self._host)
        return self._answers


@lru_cache(maxsize=1)
def _index_of(sections: tuple[Section, ...]) -> Index:
    # Kept when the catalogue is reloaded: building it takes 0.2 s, in which nothing else in the process runs.
    return Index(sections)


def create(options: Mapping[str, object], host: GuideHost) -> GuideBackend:
    """Create a guide.

    Raises:
        ConfigurationError: options were given, and the guide has none.
    """
    if options:
        raise ConfigurationError(f"The guide has no options; remove {', '.join(sorted(options))}.")
    return GuideBackend(host)
