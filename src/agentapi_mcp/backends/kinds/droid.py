"""Factory's Droid CLI (npm `droid`), over JSON-RPC on stdio; the CLI stores its own session history."""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from agentapi_mcp.backends.wire.droid_jsonrpc import COMPLETED, DroidAnswer
from agentapi_mcp.backends.wire.droid_processes import GRACE, Droid, DroidProcesses
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.jsonrpc_stdio import METHOD_NOT_FOUND, Incoming, JsonRpcError, Program
from agentapi_mcp.backends.wire.options import BaseUrl, HeaderValue, Timeout, read_options
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError
from agentapi_mcp.base.json_values import as_list, as_object, as_text
from agentapi_mcp.base.text import listed, quoted
from agentapi_mcp.core.backends.events import BackendEvent, Finished, TextDelta
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import BackendHost, Capability

_INTERRUPT_WITHIN = timedelta(seconds=3)
_VERSION_WITHIN = timedelta(seconds=10)
_KEY = "DROID_CUSTOM_MODEL_KEY"  # the CLI's settings refer to this variable, so that no file holds the key
# Variables a program needs to run and reach its provider; keys are passed only by the option `env`.
_PASSED_ON = (
    *("HOME", "PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
    *(name for each in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (each, each.lower())),
)


class DroidOptions(BaseModel):
    """The options of an agent whose backend is `droid`; docs/backends/droid.md explains each."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    command: str = Field(default="droid", min_length=1)
    base_url: BaseUrl | None = None
    api_key: HeaderValue | None = None
    cwd: Path | None = None
    env: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    max_processes: int = Field(default=4, ge=1, le=1000)
    idle_seconds: Timeout = 600
    start_timeout_seconds: Timeout = 30
    idle_timeout_seconds: Timeout = 180
    total_timeout_seconds: Timeout = 1800


def create(options: Mapping[str, object], host: BackendHost) -> "DroidBackend":
    """Create the backend from the operator's options.

    Raises:
        ConfigurationError: an option is wrong, or the program is not installed.
    """
    return DroidBackend(read_options(DroidOptions, options), host)


class DroidBackend:
    """One agent that runs in the CLI."""

    capabilities = frozenset({Capability.RESUME, Capability.FREE_CHECK, Capability.STOPS_BILLING})

    def __init__(self, options: DroidOptions, host: BackendHost) -> None:
        self._options = options
        self._clock = host.clock
        self._env = {name: value for name in _PASSED_ON if (value := host.secret(name))}
        self._env |= {name: value for name, secret in options.env.items() if (value := secret.get_secret_value())}
        found = shutil.which(options.command, path=self._env.get("PATH", os.defpath))
        if found is None:
            raise ConfigurationError("the Droid CLI is not installed: command names no program that can be run")
        self._command = str(Path(found).absolute())
        secrets = [secret.get_secret_value() for secret in options.env.values()]
        if options.api_key is not None:
            self._env[_KEY] = options.api_key.get_secret_value()
            secrets.append(self._env[_KEY])
        self._faults = FaultReader(provider="The model behind the Droid CLI", redactor=Redactor(secrets))
        self._processes = DroidProcesses(
            self._program,
            limit=options.max_processes,
            idle=timedelta(seconds=options.idle_seconds),
            start_timeout=timedelta(seconds=options.start_timeout_seconds),
        )

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Request an answer from the session's process; closing the iterator interrupts it and its model request."""
        async with aclosing(self._faults.redactor.events(self._answer(turn))) as events:
            async for event in events:
                yield event

    async def _answer(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        until = self._clock.monotonic() + self._options.total_timeout_seconds
        model = self._name(turn.model_id)
        droid = await self._processes.acquire(turn, model)
        answer = DroidAnswer(self._faults)
        refused: list[str] = []
        has_text = is_asked = is_completed = False
        try:
            await self._choose_model(droid, model)
            droid.process.listen()
            is_asked = True
            await self._send_message(droid, turn)
            while not answer.is_over:
                event = self._handle(droid, await self._receive(droid, until), answer, refused)
                has_text = has_text or isinstance(event, TextDelta)
                if event is not None:
                    yield event
            answer.raise_failure()
            droid.last, is_completed = str(turn.turn_id), True
        except BackendError as error:
            if error.fault is BackendFault.CONNECTION and has_text:
                raise BackendError(BackendFault.STREAM_CUT, "The Droid CLI ended within its answer.") from error
            raise
        finally:
            await self._release(turn, droid, is_completed=is_completed, needs_stop=is_asked and not answer.is_over)
        yield Finished(
            model=turn.model_id if droid.model == model else droid.model,
            state={"session": droid.session, "turn": str(turn.turn_id)},
            warning=_warning(droid, refused),
        )

    async def check(self) -> HealthCheck:
        """Run `--version`, without a request to the model."""
        started = self._clock.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                self._command,
                "--version",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._env,
            )
        except OSError:
            return HealthCheck(status=HealthStatus.UNHEALTHY, error="The Droid CLI cannot be run any more.")
        try:
            async with asyncio.timeout(_VERSION_WITHIN.total_seconds()):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode or not output.strip()[:1].isdigit():
            return HealthCheck(status=HealthStatus.UNHEALTHY, error="What command names is not the Droid CLI.")
        return HealthCheck(status=HealthStatus.HEALTHY, latency=timedelta(seconds=self._clock.monotonic() - started))

    async def aclose(self) -> None:
        """Stop all processes."""
        await self._processes.aclose()

    def _program(self, model_id: str | None) -> Program:
        cache = Path(self._env.get("HOME", "/")) / ".cache" / "agentapi-mcp"
        cwd = self._options.cwd or cache / "droid"
        settings: tuple[str, ...] = ()
        try:
            cwd.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._options.base_url is not None and model_id is not None:
                settings = ("--settings", str(self._write_settings(cache / "droid-settings", model_id)))
        except OSError as exc:
            message = "The directories in which the Droid CLI is to work cannot be written; check HOME and cwd."
            raise BackendError(BackendFault.BACKEND_MISSING, message) from exc
        speak = ("exec", "--input-format", "stream-jsonrpc", "--output-format", "stream-jsonrpc")
        return Program(command=(self._command, *settings, *speak), cwd=cwd, env=self._env)

    def _write_settings(self, place: Path, model_id: str) -> Path:
        """Write the CLI's settings file for this model at `base_url`, and return its path."""
        model = {
            "model": model_id,
            "displayName": model_id,
            "baseUrl": self._options.base_url,
            # Expanded by the CLI from its environment, so that the file holds no secret.
            "apiKey": f"${{{_KEY}}}",
            "provider": "generic-chat-completion-api",
        }
        content = json.dumps({"cloudSessionSync": False, "customModels": [model]}).encode()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = place / f"{hashlib.sha256(content).hexdigest()[:16]}.json"
        if not path.exists():
            # Renamed into place: another process may read the file, or write the same one, at this moment.
            beside = path.with_name(f"{path.name}.{os.getpid()}")
            beside.write_bytes(content)
            beside.replace(path)
        return path

    def _name(self, model_id: str | None) -> str | None:
        """Return the CLI's name for a model."""
        if self._options.base_url is None or model_id is None:
            return model_id
        return f"custom:{model_id.replace(' ', '-')}-0"

    async def _choose_model(self, droid: Droid, model: str | None) -> None:
        if model is None:
            return
        if droid.models and model not in droid.models:  # the CLI accepts any name, and fails later
            own = sorted(name for name in droid.models if name.startswith("custom:"))
            message = f"The Droid CLI has no such model; its custom models: {', '.join(own[:10]) or 'none'}."
            raise BackendError(BackendFault.NOT_FOUND, message)
        if model != droid.model:
            await self._request(droid, "droid.update_session_settings", {"modelId": model})
            droid.model = model

    async def _send_message(self, droid: Droid, turn: BackendTurn) -> None:
        await self._request(droid, "droid.add_user_message", {"text": _message(droid, turn)})

    async def _request(self, droid: Droid, method: str, params: Mapping[str, object]) -> None:
        try:
            await droid.process.request(method, params, timedelta(seconds=self._options.start_timeout_seconds))
        except JsonRpcError as exc:
            raise BackendError(BackendFault.BAD_REPLY, "The Droid CLI refused what was asked of it.") from exc

    async def _receive(self, droid: Droid, until: float) -> Incoming:
        left = until - self._clock.monotonic()
        idle = self._options.idle_timeout_seconds
        try:
            return await droid.process.receive(timedelta(seconds=max(0.0, min(idle, left))))
        except TimeoutError as exc:
            if left <= idle:
                raise BackendError(BackendFault.TIMEOUT_TOTAL, "The Droid CLI took too long.") from exc
            raise BackendError(BackendFault.TIMEOUT_IDLE, "The Droid CLI went silent.") from exc

    def _handle(self, droid: Droid, incoming: Incoming, answer: DroidAnswer, refused: list[str]) -> BackendEvent | None:
        if incoming.id is None:
            return answer.feed(as_object(incoming.params.get("notification")))
        if incoming.method == "droid.request_permission":
            uses = (as_object(as_object(use).get("toolUse")) for use in as_list(incoming.params.get("toolUses")))
            names = [as_text(use.get("name")) for use in uses]
            refused += [quoted(name) for name in names if name] or ["a tool"]
            # Nobody can be asked within a turn; without a response the CLI would wait until the idle timeout.
            droid.process.respond(incoming, {"selectedOption": "cancel"})
        elif incoming.method == "droid.ask_user":
            refused.append("a question to you")
            droid.process.respond(incoming, {"cancelled": True, "answers": []})
        else:
            droid.process.refuse(incoming, METHOD_NOT_FOUND, "Not offered here.")
        return None

    async def _release(self, turn: BackendTurn, droid: Droid, *, is_completed: bool, needs_stop: bool) -> None:
        """Keep the process for the next turn if its history matches the session; stop it otherwise."""
        try:
            if needs_stop and not droid.process.has_ended:
                await self._interrupt(droid)
        except BaseException:
            # The interrupt was itself cancelled: the state of the process is unknown.
            self._processes.end(turn.session_id, at_once=True)
            raise
        droid.process.ignore()
        if is_completed and not droid.process.has_ended:
            self._processes.release(turn.session_id, droid)
        else:
            self._processes.end(turn.session_id, at_once=droid.process.has_ended)

    async def _interrupt(self, droid: Droid) -> None:
        """Interrupt the turn and wait for its end; kill a process that does not stop."""
        try:
            async with asyncio.timeout(_INTERRUPT_WITHIN.total_seconds()):
                await droid.process.request("droid.interrupt_session", {}, _INTERRUPT_WITHIN)
                while True:
                    incoming = await droid.process.receive(_INTERRUPT_WITHIN)
                    if as_object(incoming.params.get("notification")).get("type") == COMPLETED:
                        return
        except (TimeoutError, BackendError, JsonRpcError):
            droid.process.kill()
            await droid.process.aclose(GRACE)


def _message(droid: Droid, turn: BackendTurn) -> str:
    parts = [f"<instructions>\n{turn.system}\n</instructions>"] if turn.system and droid.is_new else []
    if droid.is_new and turn.history:
        earlier = "\n\n".join(f"{message.role}: {message.text}" for message in turn.history)
        parts.append(f"<conversation_so_far>\n{earlier}\n</conversation_so_far>")
    return "\n\n".join([*parts, turn.message])


def _warning(droid: Droid, refused: list[str]) -> str | None:
    warnings: list[str] = []
    if refused:
        names = listed(list(dict.fromkeys(refused)))
        warnings.append(f"The agent asked for permission, which nobody can give here yet, and was refused: {names}.")
    if droid.has_forgotten:
        warnings.append("The Droid CLI had lost its memory of this session and began anew.")
        droid.has_forgotten = False
    return " ".join(warnings) or None
