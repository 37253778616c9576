"""Check every part of an installation with a real request, and report the command that fixes a fault."""

import asyncio
import os
import re
import shlex
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from difflib import get_close_matches

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import AgentApiError, BackendFault, sentences
from agentapi_mcp.base.exceptions import notes_of
from agentapi_mcp.base.text import listed, number_of
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.models import AgentDeclaration, AgentView
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.diagnosis.models import (
    Check,
    CheckOutcome,
    Declarations,
    PendingDatabase,
    fault,
    not_checked,
    not_in_use,
    ok,
    warning,
)
from agentapi_mcp.core.diagnosis.ports import ConfiguredInstallation, Installation
from agentapi_mcp.core.diagnosis.sign_in import SignInExamination
from agentapi_mcp.core.services import Services

_FREE_BYTES = 500 * 1024 * 1024
_QUESTION = "Reply with the one word: well."
_HOME_LINE = "export AGENTAPI_HOME=/another/directory"
_DATABASE_URL = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_REDIS_URL = "redis://:PASSWORD@HOST:6379/0"
_REDIS_URLS = {
    "sentinel": "redis+sentinel://:PASSWORD@HOST:26379/NAME/0",
    "cluster": "redis+cluster://:PASSWORD@HOST:6379",
}
_COMMAND = re.compile(r"`((?:agentapi-mcp|openssl) [^`]*)`")
_ASSIGNMENT = re.compile(r"\bset (AGENTAPI_[A-Z_]+=\w+)")
_VARIABLE = re.compile(r"\b([A-Z][A-Z0-9_]*[A-Z0-9])\b")
_UNSET = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*) (?:is not set|is a placeholder)\b")
_AT_LINE = re.compile(r", line (\d+):")
_NAME = re.compile(r"\b[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+\b")
_UNPREFIXED = ("DATABASE_URL", "REDIS_URL")
# None is a fault that no request met, such as a key without credit.
_OF_THE_KEY = {None, BackendFault.AUTH, BackendFault.PERMISSION, BackendFault.PAYMENT}
_PARTS = ("home", "configuration", "database", "redis", "sign-in", "agents")

Report = Callable[[Check], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTimeouts:
    """Timeouts of the checks."""

    part: timedelta = timedelta(seconds=20)
    first_start: timedelta = timedelta(seconds=90)
    answer: timedelta = timedelta(seconds=120)


class Doctor:
    """Checks one installation; parts that depend on a failed one are reported as not checked."""

    def __init__(self, installation: Installation, clock: Clock, timeouts: CheckTimeouts | None = None) -> None:
        self._installation = installation
        self._clock = clock
        self._timeouts = timeouts or CheckTimeouts()

    async def examine(self, report: Report, *, ask: bool = False) -> None:
        """Check all parts in order and report each result at once; `ask` also runs a paid turn on each agent."""
        report(ok("program", self._installation.program))
        environ = self._installation.environ
        try:
            configured = self._installation.configure()
        except AgentApiError as exc:
            named = [name for name in dict.fromkeys(_VARIABLE.findall(str(exc))) if name in environ]
            report(fault("settings", str(exc), *(f"unset {name}" for name in named)))
            for name in _PARTS:
                report(not_checked(name, "the settings must be mended first"))
            return
        report(_settings(configured.variables(), environ))
        examination = _Examination(
            parts=configured, environ=environ, clock=self._clock, timeouts=self._timeouts, report=report
        )
        await examination.run(ask=ask)


@dataclass(slots=True, kw_only=True)
class _Examination:
    parts: ConfiguredInstallation
    environ: Mapping[str, str]
    clock: Clock
    timeouts: CheckTimeouts
    report: Report
    faults: list[str] = field(default_factory=list[str])
    declared: Declarations | None = None
    is_pending: bool = False

    async def run(self, *, ask: bool) -> None:
        self._report(self._home())
        self._report(self._configuration())
        if "home" in self.faults and not self.parts.is_remote:
            self._report(not_checked("database", "the home must be mended first"))
        else:
            await self._timed(self._database())
        await self._timed(self._redis())
        await self._sign_in()
        await self._accounts()
        needed = [name for name in ("home", "configuration", "database") if name in self.faults]
        if needed:
            self._report(not_checked("agents", f"the {' and the '.join(needed)} must be mended first"))
        else:
            await self._agents(ask=ask)

    def _report(self, check: Check) -> None:
        if check.outcome is CheckOutcome.FAULT:
            self.faults.append(check.name)
        self.report(check)

    async def _timed(self, checking: Awaitable[Check]) -> None:
        begun = self.clock.monotonic()
        check = await checking
        self._report(replace(check, duration=timedelta(seconds=self.clock.monotonic() - begun)))

    # --- the parts, one after the other

    def _home(self) -> Check:
        home = self.parts.home
        try:
            existing = next((place for place in (home, *home.parents) if place.exists()), home)
        except OSError as exc:
            return fault("home", f"{home} cannot be looked into ({exc.strerror})", _HOME_LINE)
        if home.exists() and not home.is_dir():
            return fault("home", f"{home} is not a directory", _HOME_LINE)
        if not os.access(existing, os.W_OK | os.X_OK):
            line = f'sudo chown -R "$(id -un)" {shlex.quote(str(home))}' if home.exists() else _HOME_LINE
            return fault("home", f"this user may not write in {existing}", line, _HOME_LINE)
        free = shutil.disk_usage(existing).free
        detail = f"{home}{'' if home.exists() else ', which the first start makes'}; {free >> 20} MB free"
        if free < _FREE_BYTES:
            return warning("home", f"{detail}: that is little", _HOME_LINE)
        return ok("home", detail)

    def _configuration(self) -> Check:
        try:
            paths = self.parts.configuration_paths()
        except AgentApiError as exc:
            return fault("configuration", str(exc), _HOME_LINE)
        try:
            declared = self.parts.read_configuration()
        except AgentApiError as exc:
            line = _AT_LINE.search(str(exc))
            path = shlex.quote(str(paths[-1]))
            where = f" +{line[1]}" if line else ""
            lines = [f'"${{EDITOR:-vi}}"{where} {path}'] if paths[-1].exists() else ["unset AGENTAPI_CONFIG"]
            unset = [f"export {name}=..." for name in _UNSET.findall(str(exc))]
            return fault("configuration", str(exc), *unset, *lines)
        self.declared = declared
        own = ", ".join(declared.own_files) or "no file of your own"
        return ok("configuration", f"{own}; agents: {', '.join(declared.agents)}")

    async def _database(self) -> Check:
        limit = self.timeouts.part if self.parts.is_remote else self.timeouts.first_start
        try:
            async with asyncio.timeout(limit.total_seconds()):
                return await self._inspect_database()
        except TimeoutError:
            reason = f"it gave no answer within {limit.total_seconds():.0f} s"
        except AgentApiError as exc:
            reason = sentences(str(exc), *notes_of(exc))
        lines = _COMMAND.findall(reason) or [f"export {given}" for given in _ASSIGNMENT.findall(reason)]
        if not lines and self.parts.is_remote:
            lines = [self._export("database_url", _DATABASE_URL)]
        elif not lines:
            log = self.parts.database_log
            lines = [f"tail -n 20 {shlex.quote(str(log))}"] if log.exists() else []
            lines = [*lines, _HOME_LINE]
        return fault("database", reason, *lines)

    async def _inspect_database(self) -> Check:
        found = await self.parts.check_database()
        if isinstance(found, PendingDatabase):
            self.is_pending = True
            return ok("database", f"Postgres, embedded; {found.detail}")
        kind = "by URL" if self.parts.is_remote else "embedded"
        detail = f"Postgres {found.version}, {kind}, answers in {found.latency.total_seconds() * 1000:.1f} ms"
        if found.left_to_others:
            detail += f"; other programs have {listed(found.left_to_others)}, so none of this program was made"
        if found.is_standby:
            return fault(
                "database",
                f"{detail}; it is a standby, which cannot be written",
                self._export("database_url", _DATABASE_URL),
            )
        if found.remark is not None and self.parts.is_remote:
            return warning("database", f"{detail}; {found.remark}", *_COMMAND.findall(found.remark))
        if not found.is_encrypted and self.parts.is_exposed:
            line = self._export("database_url", "...?sslmode=require")
            return warning("database", f"{detail}; what is said to it is not encrypted", line)
        return ok("database", detail)

    async def _redis(self) -> Check:
        limit, lines = self.timeouts.part.total_seconds(), self._redis_lines()
        try:
            async with asyncio.timeout(limit):
                took = await self.parts.check_redis()
        except TimeoutError:
            return fault("redis", f"it gave no answer within {limit:.0f} s", *lines)
        except AgentApiError as exc:
            return fault("redis", sentences(str(exc), *notes_of(exc)), *lines)
        if took is None:
            return not_in_use("redis", "no AGENTAPI_REDIS_URL: caches and events stay in this process")
        return ok("redis", f"takes writes, and answers in {took.total_seconds() * 1000:.1f} ms")

    def _redis_lines(self) -> list[str]:
        """Return the commands that name a Redis: one of the kind that is named now, and a plain one."""
        scheme = self.environ.get(self.parts.variable_of("redis_url"), "").partition("://")[0]
        kind = _REDIS_URLS.get(scheme.partition("+")[2].lower())
        return [self._export("redis_url", url) for url in (kind, _REDIS_URL) if url is not None]

    def _export(self, field: str, value: str) -> str:
        """Return the command that sets a setting, in a variable that no other program reads."""
        name = self.parts.variable_of(field)
        return f"export {f'AGENTAPI_{name}' if name in _UNPREFIXED else name}='{value}'"

    async def _sign_in(self) -> None:
        if "configuration" in self.faults:
            self._report(not_checked("sign-in", "the configuration must be mended first"))
            return
        has_database = not self.is_pending and "database" not in self.faults and "home" not in self.faults
        examination = SignInExamination(self.parts, self._edit(), self.timeouts.part)
        await examination.run(self._report, self._timed, has_database=has_database)

    async def _accounts(self) -> None:
        if self.declared is None:
            return
        try:
            async with asyncio.timeout(self.timeouts.part.total_seconds()):
                names = await self.parts.check_accounts()
        except TimeoutError:
            reason = f"a provider gave no answer within {self.timeouts.part.total_seconds():.0f} s"
            self._report(fault("accounts", reason, self._edit()))
        except AgentApiError as exc:
            lines = dict.fromkeys(name for name in _VARIABLE.findall(str(exc)) if name.startswith("AGENTAPI_"))
            self._report(fault("accounts", str(exc), *([f"export {name}=..." for name in lines] or [self._edit()])))
        else:
            if names:
                self._report(ok("accounts", f"users can be led to connect one at: {', '.join(names)}"))

    # --- the agents, as the next start would have them

    async def _agents(self, *, ask: bool) -> None:
        try:
            views = await self.parts.check_agents()
            for view in views:
                self._report(self._agent(view))
            asked = [view for view in views if ask and view.enabled and not view.missing]
            if asked:
                async with self.parts.open_program() as services_provider:
                    services = await services_provider.services()
                    for view in asked:
                        await self._timed(self._answer(services, view))
        except AgentApiError as exc:
            named = dict.fromkeys(name for name in _VARIABLE.findall(str(exc)) if name.startswith("AGENTAPI_"))
            lines = _COMMAND.findall(str(exc)) or [f"export {name}=..." for name in named]
            self._report(fault("agents", str(exc), *lines))

    def _agent(self, view: AgentView) -> Check:
        name, by = f"agent {view.name}", f"by {view.backend}"
        if not view.enabled:
            return not_in_use(name, "it is disabled")
        if view.missing:
            return self._unequipped(name, view)
        if view.health.status not in {HealthStatus.HEALTHY, HealthStatus.UNKNOWN}:
            said = sentences(view.health.last_error or "it is not well", view.health.next_step or "")
            return fault(name, f"{by}: {said}", *self._lines_for(view))
        if view.backend_reason is not None:
            return warning(name, f"{by}, since {view.backend_reason}")
        unknown = view.health.status is HealthStatus.UNKNOWN
        return ok(name, f"{by}; there is no free way to check it" if unknown else by)

    def _unequipped(self, name: str, view: AgentView) -> Check:
        detail = "; ".join(view.missing)
        lines = [f"export {found}=..." for found in _VARIABLE.findall(detail) if found not in self.environ]
        # A packaged agent is optional; one that the operator declared must work.
        if self._declaration(view) is None or (self.declared is not None and view.name in self.declared.packaged):
            return not_in_use(name, detail, *lines)
        return fault(name, detail, *(lines or self._lines_for(view)))

    def _declaration(self, view: AgentView) -> AgentDeclaration | None:
        return None if self.declared is None else self.declared.agents.get(view.name)

    def _lines_for(self, view: AgentView) -> Sequence[str]:
        """Return the commands to change the variables that the fault names, or that configure the agent, else the file.

        A key that is set is not at fault where the provider was not reached or failed.
        """
        named = [name for name in dict.fromkeys(_NAME.findall(view.health.last_error or "")) if self.environ.get(name)]
        if named:
            return [f"export {name}=..." for name in named]
        reached = declaration = self._declaration(view)
        if declaration is not None and declaration.otherwise is not None and declaration.backend != view.backend:
            reached = declaration.otherwise
        if reached is None:
            return [self._edit()]
        set_here = [name for name in reached.variables if self.environ.get(name)]
        if view.health.fault not in _OF_THE_KEY:
            set_here = [name for name in set_here if name.endswith("_URL")]
        if set_here:
            return [f"export {name}=..." for name in set_here]
        is_packaged = self.declared is not None and view.name in self.declared.packaged
        if is_packaged and isinstance(url := reached.options.get("base_url"), str):
            return [f"curl -sS -o /dev/null {shlex.quote(url)}"]  # whether this machine reaches it
        return [self._edit()]

    def _edit(self) -> str:
        """Return the command that opens the configuration file."""
        return f'"${{EDITOR:-vi}}" {shlex.quote(str(self.parts.configuration_paths()[-1]))}'

    async def _answer(self, services: Services, view: AgentView) -> Check:
        """Run one turn, at its cost, and delete its session."""
        title, lines, limit = f"answer of {view.name}", self._lines_for(view), self.timeouts.answer
        request = ChatRequest(message=_QUESTION, agent=view.name)
        turn = await services.turns.chat(services.principal, request, wait=limit)
        services.turns.delivered(turn)
        if not turn.status.is_final:
            turn = await services.turns.cancel(services.principal, str(turn.id))
        await services.sessions.delete(services.principal, str(turn.session_id))
        if turn.error is not None:
            return fault(title, sentences(turn.error.message, turn.error.next_step), *lines)
        if turn.status is not TurnStatus.COMPLETED:
            return fault(title, f"it had not answered after {limit.total_seconds():.0f} s", *lines)
        return ok(title, _bill(turn))


def _settings(known: frozenset[str], environ: Mapping[str, str]) -> Check:
    """Find environment variables that look like settings but are unknown."""
    given = sorted(name for name in environ if name.startswith("AGENTAPI_") or name in _UNPREFIXED)
    unknown = [name for name in given if name not in {*known, *_UNPREFIXED}]
    near = {name: get_close_matches(name, known, n=1, cutoff=0.7) for name in unknown}
    if near:
        details = [f"{name} is no setting" + (f"; {like[0]} is" if like else "") for name, like in near.items()]
        lines = [f'export {like[0]}="${name}"' if like else f"unset {name}" for name, like in near.items()]
        return warning("settings", "; ".join(details), *lines)
    shown = [f"{name} (not read over stdio)" if name in _UNPREFIXED else name for name in given]
    return ok("settings", f"set: {', '.join(shown)}" if given else "none set: everything is embedded")


def _bill(turn: Turn) -> str:
    usage = turn.bill.usage
    cost = "cost unknown" if usage.cost_usd is None else f"${usage.cost_usd:f}"
    model = f" from {turn.bill.model_used}" if turn.bill.model_used else ""
    known = usage.input_tokens is not None and usage.output_tokens is not None
    tokens = (
        f"{number_of(usage.input_tokens or 0, 'token')} in, {usage.output_tokens:,} out" if known else "tokens unknown"
    )
    return f"{number_of(len(turn.reply), 'character')}{model}; {tokens}, {cost}"
