"""The checks of `agentapi-mcp doctor`: each asks one part something real, and says by which line a fault is mended."""

import asyncio
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from importlib import import_module
from ipaddress import ip_address
from time import monotonic
from urllib.parse import urlsplit

from agentapi_mcp.app.database import home_of, open_store
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.backends.registry import names
from agentapi_mcp.core.clocks import SystemClock
from agentapi_mcp.core.errors import AgentApiError, StoreUnavailableError, sentences
from agentapi_mcp.core.records.agents import AgentDeclaration, AgentView
from agentapi_mcp.core.records.health import HealthStatus
from agentapi_mcp.core.records.turns import Turn, TurnStatus
from agentapi_mcp.core.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import VERSION, Settings, load_settings
from agentapi_mcp.stores.local.catalogue_files import DEFAULTS, catalogue_paths, load_catalogue
from agentapi_mcp.stores.postgres.logins import login_remark

_FREE_BYTES = 500 * 1024 * 1024
_WITHIN = timedelta(seconds=20)
_FIRST_START_WITHIN = timedelta(seconds=90)
_ANSWER_WITHIN = timedelta(seconds=120)
_QUESTION = "Reply with the one word: well."
_DATABASE_LINE = "export AGENTAPI_DATABASE_URL='postgresql://USER:PASSWORD@HOST:5432/DATABASE'"
_REDIS_LINE = "export AGENTAPI_REDIS_URL='redis://:PASSWORD@HOST:6379/0'"
_COMMAND = re.compile(r"`((?:agentapi-mcp|openssl) [^`]*)`")
_VARIABLE = re.compile(r"\b([A-Z][A-Z0-9_]*[A-Z0-9])\b")
_AT_LINE = re.compile(r", line (\d+):")
_OF_OTHERS = ("DATABASE_URL", "REDIS_URL")


class Outcome(StrEnum):
    """How a check ended: a warning and what is not in use make no fault."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    NOT_IN_USE = "not_in_use"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found of one part; `mend` are the lines that mend it, to be copied as they are or filled in."""

    name: str
    outcome: Outcome
    detail: str
    mend: tuple[str, ...] = ()
    duration: timedelta | None = None


@dataclass(slots=True, kw_only=True)
class Examination:
    """All checks in their order; where one part fails, those that need it are not checked, and say why."""

    environ: Mapping[str, str]
    tell: Callable[[Check], None]
    ask: bool = False
    faults: list[str] = field(default_factory=list[str])
    declared: dict[str, AgentDeclaration] = field(default_factory=dict[str, AgentDeclaration])
    packaged: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Tell each check as soon as it has ended."""
        self._say(_ok("program", f"agentapi-mcp {VERSION} on {_python()}"))
        settings = self._settings()
        if settings is None:
            for name in ("home", "configuration", "database", "redis", "agents"):
                self._say(_not_checked(name, "the settings must be mended first"))
            return
        self._say(self._home(settings))
        self._say(self._configuration(settings))
        if "home" in self.faults and settings.database_url is None:
            self._say(_not_checked("database", "the home must be mended first"))
        else:
            await self._timed(self._database(settings))
        await self._timed(self._redis(settings))
        needed = [name for name in ("home", "configuration", "database") if name in self.faults]
        if needed:
            self._say(_not_checked("agents", f"the {' and the '.join(needed)} must be mended first"))
        else:
            await self._agents(settings)

    def _say(self, check: Check) -> None:
        if check.outcome is Outcome.FAULT:
            self.faults.append(check.name)
        self.tell(check)

    async def _timed(self, checking: Awaitable[Check]) -> None:
        begun = monotonic()
        check = await checking
        self._say(replace(check, duration=timedelta(seconds=monotonic() - begun)))

    # --- one after the other

    def _settings(self) -> Settings | None:
        try:
            settings = load_settings()
        except AgentApiError as exc:
            named = [name for name in dict.fromkeys(_VARIABLE.findall(str(exc))) if name in self.environ]
            self._say(_fault("settings", str(exc), *(f"unset {name}" for name in named)))
            return None
        known = {f"AGENTAPI_{name.upper()}" for name in Settings.model_fields} | self._named(settings)
        given = sorted(name for name in self.environ if name.startswith("AGENTAPI_") or name in _OF_OTHERS)
        unknown = [name for name in given if name not in {*known, *_OF_OTHERS}]
        near = {name: get_close_matches(name, known, n=1, cutoff=0.7) for name in unknown}
        if near:
            told = [f"{name} is no setting" + (f"; {like[0]} is" if like else "") for name, like in near.items()]
            lines = [f'export {like[0]}="${name}"' if like else f"unset {name}" for name, like in near.items()]
            self._say(_warning("settings", "; ".join(told), *lines))
        else:
            self._say(_ok("settings", f"set: {', '.join(given)}" if given else "none set: everything is embedded"))
        return settings

    def _named(self, settings: Settings) -> set[str]:
        """List the variables that the configuration files name, as far as they can be read."""
        found: set[str] = set()
        try:
            paths = catalogue_paths(settings.config, home_of(settings, self.environ))
        except AgentApiError:  # told by the next check
            paths = ()
        for path in (*paths, DEFAULTS):
            try:
                found |= set(re.findall(r"\$\{(\w+)", path.read_text(encoding="utf-8", errors="replace")))
            except OSError:
                continue
        return found

    def _home(self, settings: Settings) -> Check:
        home = home_of(settings, self.environ)
        quoted = shlex.quote(str(home))
        elsewhere = "export AGENTAPI_HOME=/another/directory"
        try:
            there = next((place for place in (home, *home.parents) if place.exists()), home)
        except OSError as exc:
            return _fault("home", f"{home} cannot be looked into ({exc.strerror})", elsewhere)
        if home.exists() and not home.is_dir():
            return _fault("home", f"{home} is not a directory", elsewhere)
        if not os.access(there, os.W_OK | os.X_OK):
            line = f'sudo chown -R "$(id -un)" {quoted}' if home.exists() else elsewhere
            return _fault("home", f"this user may not write in {there}", line, elsewhere)
        free = shutil.disk_usage(there).free
        said = f"{home}{'' if home.exists() else ', which the first start makes'}; {free >> 20} MB free"
        if free < _FREE_BYTES:
            return _warning("home", f"{said}: that is little", elsewhere)
        return _ok("home", said)

    def _configuration(self, settings: Settings) -> Check:
        try:
            paths = catalogue_paths(settings.config, home_of(settings, self.environ))
        except AgentApiError as exc:
            return _fault("configuration", str(exc), "export AGENTAPI_HOME=/another/directory")
        try:
            file = load_catalogue(paths, self.environ, names)
        except AgentApiError as exc:
            line = _AT_LINE.search(str(exc))
            path = shlex.quote(str(paths[-1]))
            where = f" +{line[1]}" if line else ""
            lines = [f'"${{EDITOR:-vi}}"{where} {path}'] if paths[-1].exists() else ["unset AGENTAPI_CONFIG"]
            return _fault("configuration", str(exc), *lines)
        self.declared = {agent.name: agent for agent in file.agents}
        offered = load_catalogue([DEFAULTS], self.environ, names).agents
        self.packaged = frozenset(agent.name for agent in offered if agent == self.declared.get(agent.name))
        own = [str(path) for path in paths if path != DEFAULTS]
        return _ok("configuration", f"{', '.join(own) or 'no file of your own'}; agents: {', '.join(self.declared)}")

    async def _database(self, settings: Settings) -> Check:
        remote = settings.database_url is not None
        limit = _WITHIN if remote else _FIRST_START_WITHIN
        try:
            async with asyncio.timeout(limit.total_seconds()):
                return await self._ask_database(settings)
        except TimeoutError:
            reason = f"it gave no answer within {limit.total_seconds():.0f} s"
        except AgentApiError as exc:
            reason = str(exc)
        lines = _COMMAND.findall(reason)
        if not lines and remote:
            lines = [_DATABASE_LINE]
        elif not lines:
            log = home_of(settings, self.environ) / "pg18" / "pg.log"
            lines = [f"tail -n 20 {shlex.quote(str(log))}"] if log.exists() else []
            lines = [*lines, "export AGENTAPI_HOME=/another/directory"]
        return _fault("database", reason, *lines)

    async def _ask_database(self, settings: Settings) -> Check:
        async with AsyncExitStack() as stack:
            database, _ = await open_store(stack, settings, self.environ)
            begun = monotonic()
            async with database.as_system("doctor") as connection:
                row = await connection.fetchrow(
                    "SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS standby, "
                    "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted"
                )
            took = timedelta(seconds=monotonic() - begun)
            remark = await login_remark(database)
        if row is None:
            raise StoreUnavailableError("The database did not answer.")
        kind = "embedded" if settings.database_url is None else "by URL"
        said = f"Postgres {row['version']}, {kind}, answers in {took.total_seconds() * 1000:.1f} ms"
        if row["standby"]:
            return _fault("database", f"{said}; it is a standby, which cannot be written", _DATABASE_LINE)
        if remark is not None and settings.database_url is not None:
            return _warning("database", f"{said}; {remark}", *_COMMAND.findall(remark))
        if not row["encrypted"] and _leaves_the_machine(settings):
            line = "export AGENTAPI_DATABASE_URL='...?sslmode=require'"
            return _warning("database", f"{said}; what is said to it is not encrypted", line)
        return _ok("database", said)

    async def _redis(self, settings: Settings) -> Check:
        if settings.redis_url is None:
            return _not_in_use("redis", "no AGENTAPI_REDIS_URL: caches and events stay in this process")
        redis = import_module("agentapi_mcp.stores.redis")
        try:
            async with asyncio.timeout(_WITHIN.total_seconds()):
                async with redis.open_redis(
                    settings.redis_url.get_secret_value(), settings.redis_prefix, SystemClock()
                ) as client:
                    begun = monotonic()
                    await client.probe()
                    took = monotonic() - begun
        except TimeoutError:
            return _fault("redis", f"it gave no answer within {_WITHIN.total_seconds():.0f} s", _REDIS_LINE)
        except AgentApiError as exc:
            return _fault("redis", str(exc), _REDIS_LINE)
        return _ok("redis", f"writes and deletes in {took * 1000:.1f} ms")

    # --- the agents, by the program itself

    async def _agents(self, settings: Settings) -> None:
        async with open_app(settings, self.environ) as app:
            try:
                services = await app.gate.services()
                report = await services.health.report(services.principal, fresh=True)
                for view in report.agents:
                    self._say(self._agent(view, settings))
                for view in report.agents:
                    if self.ask and view.enabled and not view.missing:
                        await self._timed(self._answer(services, view, settings))
            except AgentApiError as exc:
                named = dict.fromkeys(name for name in _VARIABLE.findall(str(exc)) if name.startswith("AGENTAPI_"))
                lines = _COMMAND.findall(str(exc)) or [f"export {name}=..." for name in named]
                self._say(_fault("agents", str(exc), *lines))

    def _agent(self, view: AgentView, settings: Settings) -> Check:
        name, by = f"agent {view.name}", f"by {view.backend}"
        declaration = self.declared.get(view.name)
        if not view.enabled:
            return _not_in_use(name, "it is disabled")
        if view.missing:
            detail = "; ".join(view.missing)
            lines = [f"export {found}=..." for found in _VARIABLE.findall(detail) if found not in self.environ]
            # What comes with the program is an offer; what the operator declared is meant.
            if declaration is None or view.name in self.packaged:
                return _not_in_use(name, detail, *lines)
            return _fault(name, detail, *(lines or self._lines_for(declaration, view, settings)))
        if view.health.status not in {HealthStatus.HEALTHY, HealthStatus.UNKNOWN}:
            detail = f"{by}: {view.health.last_error or 'it is not well'}"
            return _fault(name, detail, *self._lines_for(declaration, view, settings))
        if view.backend_reason is not None:
            return _warning(name, f"{by}, since {view.backend_reason}")
        unknown = view.health.status is HealthStatus.UNKNOWN
        return _ok(name, f"{by}; there is no free way to check it" if unknown else by)

    def _lines_for(self, declaration: AgentDeclaration | None, view: AgentView, settings: Settings) -> Sequence[str]:
        """Name the variables that decide how the agent is reached, or else the file."""
        reached = declaration
        if declaration is not None and declaration.otherwise is not None and declaration.backend != view.backend:
            reached = declaration.otherwise
        set_here = [name for name in reached.variables if self.environ.get(name)] if reached is not None else []
        if set_here:
            return [f"export {name}=..." for name in set_here]
        path = catalogue_paths(settings.config, home_of(settings, self.environ))[-1]
        return [f'"${{EDITOR:-vi}}" {shlex.quote(str(path))}']

    async def _answer(self, services: Services, view: AgentView, settings: Settings) -> Check:
        """Ask a question, which costs what an answer costs, and leave no session behind."""
        title = f"answer of {view.name}"
        lines = self._lines_for(self.declared.get(view.name), view, settings)
        request = ChatRequest(message=_QUESTION, agent=view.name)
        turn = await services.turns.chat(services.principal, request, wait=_ANSWER_WITHIN)
        if not turn.status.is_final:
            turn = await services.turns.cancel(services.principal, str(turn.id))
        await services.sessions.delete(services.principal, str(turn.session_id))
        if turn.error is not None:
            return _fault(title, sentences(turn.error.message, turn.error.next_step), *lines)
        if turn.status is not TurnStatus.COMPLETED:
            return _fault(title, f"it had not answered after {_ANSWER_WITHIN.seconds} s", *lines)
        return _ok(title, _bill(turn))


def _bill(turn: Turn) -> str:
    usage = turn.bill.usage
    cost = "cost unknown" if usage.cost_usd is None else f"${usage.cost_usd}"
    model = f" from {turn.bill.model_used}" if turn.bill.model_used else ""
    return f"{len(turn.reply)} characters{model}; {usage.input_tokens or 0} + {usage.output_tokens or 0} tokens, {cost}"


def _leaves_the_machine(settings: Settings) -> bool:
    if settings.database_url is None:
        return False
    host = urlsplit(settings.database_url.get_secret_value()).hostname
    if not host or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, outcome=Outcome.OK, detail=detail)


def _warning(name: str, detail: str, *mend: str) -> Check:
    return Check(name=name, outcome=Outcome.WARNING, detail=detail, mend=mend)


def _fault(name: str, detail: str, *mend: str) -> Check:
    return Check(name=name, outcome=Outcome.FAULT, detail=detail, mend=tuple(dict.fromkeys(mend)))


def _not_in_use(name: str, detail: str, *mend: str) -> Check:
    return Check(name=name, outcome=Outcome.NOT_IN_USE, detail=detail, mend=mend)


def _not_checked(name: str, detail: str) -> Check:
    return Check(name=name, outcome=Outcome.NOT_CHECKED, detail=detail)
