"""The catalogue of one process: rows of the database, joined with the operator's file and its backends."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import AgentApiError, NotFoundError
from agentapi_mcp.base.json_values import as_object, is_list
from agentapi_mcp.base.spellings import named, spelling
from agentapi_mcp.base.text import listed
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.catalogue.backend_pool import RefCountedBackend
from agentapi_mcp.core.catalogue.declared_rows import declared_row
from agentapi_mcp.core.catalogue.models import AgentDeclaration, AgentRow, CatalogueFile, CatalogueRows, ModelRow
from agentapi_mcp.core.catalogue.ports import CatalogueStore

Build = Callable[[AgentDeclaration], Backend]

# Hiding shorter values would garble the message.
_SHORTEST_SECRET = 6
_RETIRE_AFTER = timedelta(seconds=30)  # longer than the acceptance of a turn can take

LONGEST_SHOWN = 60  # characters of a name in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A row with its declaration; `backend` is None exactly when something is `missing`.

    `keyless` is the backend without a key, set when only the key is missing: for callers with a key of their own.

    Rows are untrusted data: connection settings come from the declaration in the operator's file alone.
    """

    row: AgentRow
    declaration: AgentDeclaration
    backend: Backend | None
    missing: tuple[str, ...]
    backend_reason: str | None = None
    keyless: Backend | None = None

    @property
    def name(self) -> str:
        """The name of the agent."""
        return self.row.name

    @property
    def backend_name(self) -> str:
        """The configured backend, available or not."""
        return self.declaration.backend

    @property
    def usable(self) -> bool:
        """Whether the agent can answer turns."""
        return self.row.enabled and self.backend is not None

    @property
    def default_model_name(self) -> str | None:
        """The default model of the row, else of the declaration."""
        return self.row.default_model or self.declaration.default_model

    @property
    def borrows_models(self) -> bool:
        """Whether a model of another agent may write its answers."""
        return self.backend is not None and Capability.BORROWS_MODELS in self.backend.capabilities

    def default_model(self) -> ModelRow | None:
        """Find the default model, else the first enabled one in the order of the file."""
        name = self.default_model_name
        if name is not None:
            return self.find_model(name)
        enabled = [model for model in self.row.models if model.enabled]
        order = {model.name: index for index, model in enumerate(self.declaration.models)}
        return min(enabled, key=lambda model: (order.get(model.name, len(order)), model.name), default=None)

    def find_model(self, name: str) -> ModelRow | None:
        """Find a model by its name, else by the provider's id, else by another spelling that only one has."""
        by_name = [model for model in self.row.models if model.name == name]
        by_id = [model for model in self.row.models if model.model_id == name]
        found = next(iter([*by_name, *by_id]), None)
        return found or self._respelled(name)

    def _respelled(self, name: str) -> ModelRow | None:
        wanted = spelling(name)
        found = [model for model in self.row.models if wanted in {spelling(model.name), spelling(model.model_id)}]
        return found[0] if len(found) == 1 else None


def find_agent(entries: Sequence[CatalogueEntry], name: str, undeclared: Sequence[AgentRow] = ()) -> CatalogueEntry:
    """Find an agent by its name, else by another spelling that only one has.

    Raises:
        NotFoundError: there is none; the message lists those that there are, and says what became of one that is
            `undeclared`.
    """
    meant = meant_agent(entries, name)
    for entry in entries:
        if entry.name == meant:
            return entry
    others = listed([one.name for one in entries])
    for row in undeclared:
        if row.name == name:
            what = "was removed" if row.removed else "is not declared in the configuration file"
            raise NotFoundError(
                f"The agent {name} {what}, and cannot be asked; its sessions and bills stay. Name another one "
                f"({others}), or declare it again in agentapi.toml, or in the file that AGENTAPI_CONFIG names."
            )
    raise NotFoundError(f"There is no agent {shown_name(name)}; there are: {others}.")


def meant_agent(entries: Sequence[CatalogueEntry], name: str) -> str:
    """Return the name of the agent that another spelling means, where only one has it; else the name as it is."""
    names = [entry.name for entry in entries]
    return name if name in names else named(name, names) or name


def shown_name(name: str) -> str:
    """Quote a caller's name, shortened."""
    return repr(name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}…")


class Catalogue:
    """Current agents and models; reloaded after `lifetime` or on `expire`."""

    def __init__(
        self,
        *,
        store: CatalogueStore,
        file: CatalogueFile,
        build: Build,
        clock: Clock,
        lifetime: timedelta = timedelta(seconds=30),
    ) -> None:
        self._store = store
        self._file = file
        self._declared = {agent.name: agent for agent in file.agents}
        self._build = build
        self._clock = clock
        self._lifetime = lifetime
        self._loading = asyncio.Lock()
        self._rows: CatalogueRows | None = None
        self._loaded_at = 0.0
        self._built: dict[tuple[str, str], RefCountedBackend | str] = {}
        self._retired: list[tuple[float, RefCountedBackend]] = []

    def now(self) -> datetime:
        """Return the time of which the catalogue is."""
        return self._clock.now()

    async def publish(self) -> bool:
        """Store the declarations of the operator's file if they changed, and reload."""
        written = await self._store.write(self._file)
        await self.refresh()
        return written

    async def reload(self, file: CatalogueFile) -> None:
        """Replace the file: store it, notify other processes, then use it; running turns keep their backend.

        Raises:
            StoreError: it could not be stored, and nothing is changed.
        """
        if not await self._store.write(file):
            await (
                self._store.notify_changed()
            )  # options may have changed: they are never stored, so the hash cannot show it
        async with self._loading:
            before, self._file = self._declared, file
            self._declared = {agent.name: agent for agent in file.agents}
            for key in [key for key in self._built if self._declared.get(key[0]) != before.get(key[0])]:
                built = self._built.pop(key)
                if not isinstance(built, str):
                    # Not closed yet: running turns still use it.
                    self._retired.append((self._clock.monotonic(), built))
            await self._load()

    async def refresh(self) -> None:
        """Reload the rows now."""
        async with self._loading:
            await self._load()

    def expire(self) -> None:
        """Reload the rows on next use, because another process has changed them."""
        self._rows = None

    async def entries(self) -> tuple[CatalogueEntry, ...]:
        """List every agent that this process's file declares, usable or not, by name."""
        rows = await self._current()
        # Where another file was written since, its declarations of the same names count in its own processes alone.
        is_own = rows.sha256 == self._file.sha256
        found = ((row, self._declaration(row)) for row in rows.agents)
        entries = [
            self._entry(row if is_own else _overlaid(row, ours), ours) for row, ours in found if ours is not None
        ]
        return tuple(sorted(entries, key=lambda entry: entry.name))

    async def declared_names(self) -> tuple[str, ...]:
        """List the names of `entries`, for which no backend is imported and built."""
        rows = await self._current()
        return tuple(sorted(row.name for row in rows.agents if self._declaration(row) is not None))

    async def undeclared(self) -> tuple[AgentRow, ...]:
        """List the rows that this process's file does not declare, those that were removed as well, by name."""
        rows = await self._current()
        return tuple(row for row in rows.agents if self._declaration(row) is None)

    async def remove(self, row: AgentRow, event: AuditEvent) -> None:
        """Take a row that no file declares out of all lists, with the event that records it; nothing is deleted."""
        await self._store.remove(row.id, event)
        await self.refresh()

    def order(self, entry: CatalogueEntry) -> tuple[bool, int, str]:
        """Return the sort key for choosing a default: the order of the file, with the guide last."""
        names = list(self._declared)
        place = names.index(entry.name) if entry.name in self._declared else len(names)
        return entry.backend_name == "guide", place, entry.name

    async def aclose(self) -> None:
        """Close all backends."""
        built = [*self._built.values(), *(backend for _, backend in self._retired)]
        self._built, self._retired = {}, []
        await _close(backend for backend in built if not isinstance(backend, str))

    async def _current(self) -> CatalogueRows:
        async with self._loading:
            if self._rows is None or self._clock.monotonic() - self._loaded_at >= self._lifetime.total_seconds():
                return await self._load()
            return self._rows

    async def _load(self) -> CatalogueRows:
        rows = self._rows = await self._store.load()
        self._loaded_at = self._clock.monotonic()
        await self._close_retired()
        return rows

    async def _close_retired(self) -> None:
        """Close backends that were replaced a while ago and are no longer in use."""
        # A turn accepted just before the replacement has a reference to the backend, but has not begun to run yet.
        old = self._clock.monotonic() - _RETIRE_AFTER.total_seconds()
        unused = [(at, backend) for at, backend in self._retired if at <= old and not backend.in_use]
        self._retired = [each for each in self._retired if each not in unused]
        await _close(backend for _, backend in unused)

    def _declaration(self, row: AgentRow) -> AgentDeclaration | None:
        return self._declared.get(row.name) or self._declared.get(row.means or "")

    def _entry(self, row: AgentRow, declaration: AgentDeclaration) -> CatalogueEntry:
        reason: str | None = None
        built = self._backend(declaration)
        if declaration.otherwise is not None and isinstance(built, tuple):
            if not declaration.missing:  # an unset variable means that the operator did not choose it
                reason = f"{declaration.backend} cannot be used: {'; '.join(built)}"
            declaration = declaration.otherwise
            built = self._backend(declaration)
        lacks, backend = (built, None) if isinstance(built, tuple) else ((), built)
        return CatalogueEntry(
            row=row,
            declaration=declaration,
            backend=backend,
            missing=lacks,
            backend_reason=reason,
            keyless=self._keyless(declaration) if declaration.lacks_key else None,
        )

    def _keyless(self, declaration: AgentDeclaration) -> RefCountedBackend | None:
        """Build the backend without its missing key, if it accepts the caller's."""
        options = {name: value for name, value in declaration.options.items() if name != "api_key"}
        built = self._backend(replace(declaration, options=options, missing=()))
        return None if isinstance(built, tuple) or Capability.OWN_KEYS not in built.capabilities else built

    def _backend(self, declaration: AgentDeclaration) -> RefCountedBackend | tuple[str, ...]:
        """Build the backend once, or return what it lacks.

        A configuration error is stored as its message, so that one bad agent does not fail the whole list.
        """
        if declaration.missing:
            return declaration.missing
        key = declaration.name, declaration.backend
        if key not in self._built:
            try:
                self._built[key] = RefCountedBackend(self._build(declaration))
            except AgentApiError as exc:
                self._built[key] = _without_values(str(exc), dict(declaration.options))
        built = self._built[key]
        return (built,) if isinstance(built, str) else built


def _overlaid(row: AgentRow, declaration: AgentDeclaration) -> AgentRow:
    """Return a row as its declaration has it; without models that have no row, to which a turn could not refer."""
    if row.name != declaration.name:
        return row
    stored, laid = {model.id for model in row.models}, declared_row(declaration, row)
    return replace(laid, models=tuple(model for model in laid.models if model.id in stored))


async def _close(backends: Iterable[RefCountedBackend]) -> None:
    async with AsyncExitStack() as closing:  # closes all, even if one fails
        for backend in backends:
            closing.push_async_callback(backend.aclose)


def _without_values(message: str, options: object) -> str:
    # Longest first: a value may contain a shorter one.
    for value in sorted(_strings(options), key=len, reverse=True):
        if len(value) >= _SHORTEST_SECRET:
            message = message.replace(value, "…")
    return message.rstrip(".")


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value if is_list(value) else as_object(value).values()
    return [text for item in items for text in _strings(item)]
