"""`agents add` and `agents remove`: change the configuration file, after the provider was tried."""

import asyncio
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import SecretStr

from agentapi_mcp.app.providers import (
    agents_of,
    check_agent,
    declared_agents,
    offered_models,
    own_file,
    packaged_agents,
)
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError, InvalidRequestError
from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.base.text import listed, number_of
from agentapi_mcp.cli import toml_edits
from agentapi_mcp.cli.agent_blocks import NewAgent, agent_block
from agentapi_mcp.cli.config_files import FileChangedError, replace_text, text_of
from agentapi_mcp.cli.config_secrets import difference, secrets_in, secrets_of
from agentapi_mcp.cli.model_tables import declarable, today
from agentapi_mcp.cli.outputs import print_json, table
from agentapi_mcp.cli.providers import PROVIDERS, EnteredKey, Provider
from agentapi_mcp.cli.questions import ask, ask_secret, choose, confirm
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.core.backends.models import HealthStatus, OfferedModel
from agentapi_mcp.environ import environment
from agentapi_mcp.settings import Settings, load_settings

_LOOK = 2.0  # seconds that a server of this machine may take to list its models
_SILENT = frozenset[BackendFault](
    (BackendFault.CONNECTION, BackendFault.TIMEOUT_CONNECT, BackendFault.TIMEOUT_IDLE, BackendFault.TIMEOUT_TOTAL)
)
_REFUSALS = frozenset[BackendFault]((BackendFault.AUTH, BackendFault.PERMISSION))
# What cannot chat, by the names that its makers give it.
_NO_CHAT = re.compile(r"embed|rerank|whisper|\b(?:bge|tts)\b", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_MODELS = 50
_SHOWN_MODELS = 15
_NEW_FILE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOptions:
    """Options of `agents add`."""

    provider: str | None
    name: str | None = None
    models: tuple[str, ...] = ()
    base_url: str | None = None
    key_env: str | None = None
    yes: bool = False
    dry_run: bool = False
    force: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Consent:
    """Whether to write at all, and without a question."""

    yes: bool
    dry_run: bool
    as_json: bool

    def given(self, question: str) -> bool:
        """Ask, unless it is settled; say so where nothing is to be written.

        Raises:
            InvalidRequestError: nobody can be asked.
        """
        if self.dry_run:
            print_err("Nothing was written (--dry-run).")
            return False
        if self.yes:
            return True
        if not sys.stdin.isatty():
            raise InvalidRequestError("Nobody can be asked here whether to write this: say --yes.")
        if confirm(question):
            return True
        print_err("Nothing was written.")
        return False


async def show_providers(*, as_json: bool) -> None:
    """Print every provider, whether its key is set, and which of the local ones answer."""
    environ = environment()
    async with asyncio.TaskGroup() as group:
        states = {name: group.create_task(state_of(name, each, environ)) for name, each in PROVIDERS.items()}
    if as_json:
        found = [
            {"name": name, "title": PROVIDERS[name].title, "state": each.result()} for name, each in states.items()
        ]
        print_json({"providers": found})
        return
    table(
        ("PROVIDER", "WHAT", "STATE"), [(name, PROVIDERS[name].title, each.result()) for name, each in states.items()]
    )
    print_err("`agentapi-mcp agents add PROVIDER` adds one.")


async def state_of(name: str, provider: Provider, environ: Mapping[str, str]) -> str:
    """Say whether a provider's key is set, or whether a server of this machine answers."""
    key = environ.get(provider.key_variable or "")
    of_key = f"{provider.key_variable} is {'set' if key else 'not set'}" if provider.key_variable else ""
    if not provider.is_local or provider.base_url is None:
        return of_key
    try:
        async with asyncio.timeout(_LOOK):
            models = await offered_models(provider.backend, _options(name, provider, provider.base_url, key), environ)
    except TimeoutError:
        return f"does not answer at {provider.base_url}"
    except BackendError as exc:
        if exc.fault in _REFUSALS:
            wants = f"wants a key: {of_key}" if of_key else "wants a key (--key-env NAME)"
            return f"answers at {provider.base_url}, and {f'refuses {provider.key_variable}' if key else wants}"
        return f"{'does not answer' if exc.fault in _SILENT else 'something else answers'} at {provider.base_url}"
    return f"answers at {provider.base_url}: {listed([each.model_id for each in models][:5]) or 'no model'}"


def _options(name: str, provider: Provider, base_url: str, key: str | None) -> dict[str, object]:
    """Return the options of a backend that asks a provider."""
    return {"base_url": base_url, "provider": name, **provider.options} | ({"api_key": key} if key else {})


async def add_agent(options: AddOptions, entered: Callable[[EnteredKey], None]) -> None:
    """Try a provider, and write an agent of it into the configuration file; hand on a key that was entered.

    Raises:
        BackendError: the provider refuses, or does not answer; nothing was written.
        ConfigurationError: the file cannot be changed.
        InvalidRequestError: a model or an option is missing, or nobody can be asked.
    """
    provider_name = options.provider or ""
    provider, name = PROVIDERS[provider_name], options.name or provider_name
    environ, settings = environment(), load_settings()
    path, before = read_own_file(settings, environ)
    if name in toml_edits.tables(before or "", "agents"):
        raise ConfigurationError(
            f"{path} has an agent {name} already: choose another --name, or `agentapi-mcp agents remove {name}`."
        )
    base_url = options.base_url or provider.base_url
    if base_url is None:
        raise InvalidRequestError(f"{provider.title} has an address of your own: say --base-url, ending in /openai/v1.")
    variable = options.key_env or provider.key_variable
    key, is_entered = _key(provider, variable, environ)
    keyed = dict(environ) | ({variable: key.get_secret_value()} if key is not None and variable else {})
    asked = _options(provider_name, provider, base_url, None if key is None else key.get_secret_value())
    models = await _chosen_models(provider, asked, keyed, options)
    agent = NewAgent(
        name=name,
        provider_name=provider_name,
        provider=provider,
        base_url=base_url,
        key_variable=variable if key is not None else None,
        models=models,
        day=today(),
    )
    block = agent_block(agent)
    await _check(agent, block, keyed, tries=not options.force)
    try:
        after = toml_edits.add(before or "", ("agents", name), block)
    except toml_edits.UnsafeEditError as exc:
        raise ConfigurationError(f"{path} cannot be changed safely. Add this by hand:\n\n{block}") from exc
    secrets = [*secrets_of(keyed), *([key.get_secret_value()] if key is not None else [])]
    if not write_own_file(path, before, after, secrets, Consent(options.yes, options.dry_run, options.as_json)):
        return
    _tell_next(agent, path, is_entered=is_entered)
    if is_entered and key is not None and variable is not None:
        has_master_key = any((settings.master_key, settings.master_key_file, settings.master_key_command))
        entered(EnteredKey(provider_name, variable, key, has_master_key))


def _tell_next(agent: NewAgent, path: Path, *, is_entered: bool) -> None:
    """Say how to ask a new agent, and what its provider's list could not tell."""
    is_in_environment = agent.key_variable is not None and not is_entered
    needs = f", if it was started with {agent.key_variable}" if is_in_environment else ""
    said = f'Wrote {path}. `agentapi-mcp chat --agent {agent.name} "Say hello."` asks it'
    print_err(f"{said}; a running server has it in 2 s{needs}.")
    if is_in_environment:
        print_err(f"`agentapi-mcp connect --env {agent.key_variable}` hands the key on to your clients.")
    if agent.provider.remark is not None:
        print_err(agent.provider.remark)
    if agent.provider.is_local and any(model.input_price is None for model in agent.models):
        print_err(
            "Where no price is known, bills say that the cost is unknown. If nobody bills you for these models, add "
            "`prices = { input = 0, output = 0 }` to each (docs/cost.md)."
        )


async def remove_agent(name: str, consent: Consent) -> bool:
    """Take an agent out of the configuration file; comments and all others stay. False: no file declares it.

    Raises:
        ConfigurationError: the file cannot be changed, or the agent comes with the program.
    """
    environ, settings = environment(), load_settings()
    path, before = read_own_file(settings, environ)
    there = toml_edits.tables(before or "", "agents")
    if name not in there or before is None:
        if name in declared_agents(settings, environ):
            raise ConfigurationError(
                f"The agent {name} comes with the program, and {path} does not declare it: `use_defaults = false` "
                "there leaves out all that come with it."
            )
        return False
    try:
        after = toml_edits.remove(before, ("agents", name))
    except toml_edits.UnsafeEditError as exc:
        raise ConfigurationError(
            f"{path} says {name} in a way that cannot be changed safely: edit it by hand."
        ) from exc
    if write_own_file(path, before, after, secrets_of(environ), consent):
        print_err(f"Took {name} out of {path}. Its sessions and bills stay; no client is shown it any more.")
    return True


def read_own_file(settings: Settings, environ: Mapping[str, str]) -> tuple[Path, str | None]:
    """Return the configuration file and its text.

    Raises:
        ConfigurationError: it is wrong, or cannot be read.
    """
    declared_agents(settings, environ)
    path = own_file(settings, environ)
    try:
        return path.resolve(), text_of(path)
    except (OSError, RuntimeError, UnicodeDecodeError) as exc:  # RuntimeError: links in a circle, before Python 3.13
        raise ConfigurationError(f"{path} cannot be read ({exc}).") from exc


def _key(provider: Provider, variable: str | None, environ: Mapping[str, str]) -> tuple[SecretStr | None, bool]:
    """Return the key, and whether it was entered: from its variable, or at a hidden prompt."""
    if variable is None:
        return None, False
    if not _VARIABLE.fullmatch(variable):
        # What was given is not repeated: it may be the key.
        raise InvalidRequestError("--key-env takes the name of a variable, not the key itself.")
    if value := environ.get(variable):
        return SecretStr(value), False
    if provider.is_local and variable == provider.key_variable:
        return None, False
    if not sys.stdin.isatty():
        raise InvalidRequestError(
            f"{variable} is not set here, and nobody can be asked: set it, or say --key-env NAME for another variable. "
            "A key is never an argument, which others on the machine could see."
        )
    return SecretStr(ask_secret(f"API key of {provider.title}")), True


async def _chosen_models(
    provider: Provider, asked: Mapping[str, object], environ: Mapping[str, str], options: AddOptions
) -> Sequence[OfferedModel]:
    """Return the models to declare, the default one first."""
    wanted = tuple(dict.fromkeys(options.models))
    if provider.base_url is None or options.force:  # deployments, which no list tells; or a provider that is not asked
        named = wanted or tuple(each for each in (provider.default_model,) if each is not None)
        if not named and not sys.stdin.isatty():
            raise InvalidRequestError("Say which model, or which deployment, as the provider names it: --model NAME.")
        return [OfferedModel(model_id=each) for each in named or [ask("Model, or deployment")]]
    offered = declarable(await _offered(provider, asked, environ))
    for model in wanted:
        if model not in offered:
            close = get_close_matches(model, offered, 5, 0.4) or list(offered)[:_SHOWN_MODELS]
            raise InvalidRequestError(
                f"{provider.title} does not list a model {model[:100]!r}; close are: {', '.join(close) or 'none'}."
            )
    if not offered:
        raise InvalidRequestError(f"{provider.title} has no model yet: load or pull one there first.")
    return [offered[each] for each in wanted or _default(provider, list(offered))]


async def _offered(
    provider: Provider, asked: Mapping[str, object], environ: Mapping[str, str]
) -> Sequence[OfferedModel]:
    try:
        return await offered_models(provider.backend, asked, environ)
    except ConfigurationError as exc:
        exc.add_note("Nothing was written.")
        raise
    except BackendError as exc:
        if exc.fault in _REFUSALS and "api_key" not in asked:
            exc.add_note(
                f"Set {provider.key_variable}." if provider.key_variable else "Say --key-env NAME for its key."
            )
        elif provider.is_local and exc.fault in _SILENT:
            exc.add_note(f"Start {provider.title}, or say --base-url where it listens elsewhere.")
        elif provider.is_local and exc.fault not in _REFUSALS:
            exc.add_note(f"What answers there is not {provider.title}: say --base-url where that listens.")
        exc.add_note("Nothing was written.")
        raise


def _default(provider: Provider, offered: Sequence[str]) -> Sequence[str]:
    if provider.default_model in offered:
        return [str(provider.default_model)]
    if provider.is_local:
        if len(offered) > _MOST_MODELS:
            has = number_of(len(offered), "model")
            print_err(f"It has {has}; {_MOST_MODELS} are declared. `models sync --all` adds others.")
        # The first is the default, and should answer.
        return sorted(offered, key=lambda name: _NO_CHAT.search(name) is not None)[:_MOST_MODELS]
    shown = ", ".join(offered[:_SHOWN_MODELS]) + (", …" if len(offered) > _SHOWN_MODELS else "")
    if not sys.stdin.isatty():
        raise InvalidRequestError(f"Say which model: --model NAME. {provider.title} has: {shown}.")
    print_err(f"{provider.title} has: {shown}.")
    return [choose("Model", offered)]


async def _check(agent: NewAgent, block: str, environ: Mapping[str, str], *, tries: bool) -> None:
    """Check the agent as the server will: OpenRouter's list of models, for one, tells nothing of the key."""
    try:
        found = await check_agent(block, agent.name, environ, tries=tries)
    except ConfigurationError as exc:
        exc.add_note("Nothing was written.")
        raise
    if found.status in {HealthStatus.UNHEALTHY, HealthStatus.NOT_CONFIGURED}:
        raise ConfigurationError(f"It does not work: {found.error} Nothing was written; --force writes it untried.")
    if not tries:
        print_err("It was not tried (--force).")
    elif found.status is HealthStatus.HEALTHY:
        print_err("The server's free check of it succeeds. No model was asked, and nothing was billed.")
    else:
        print_err(f"The server's free check of it tells nothing{f': {found.error}' if found.error else '.'}")
    if agent.provider.base_url is None:
        print_err(f"No list has its deployments: the first message shows whether {agent.models[0].model_id} is one.")
    if agent.name in packaged_agents():
        print_err(f"It takes the place of the agent {agent.name} that comes with the program.")


def write_own_file(path: Path, before: str | None, after: str, secrets: Sequence[str], consent: Consent) -> bool:
    """Show the change, ask, and write it; return whether it was written.

    Raises:
        ConfigurationError: it cannot be written, or would be wrong.
        InvalidRequestError: nobody can be asked.
    """
    agents_of(after, environment(), called=f"{path} as it would become")
    documents = [toml_edits.load(each) for each in (before, after) if each]
    hidden = [*secrets, *(secret for document in documents for secret in secrets_in(as_object(document)))]
    change = difference(path, before, after, hidden)
    (print_err if consent.as_json else print_out)(change)
    is_written = consent.given(f"Write {path}?")
    if is_written:
        _write(path, before, after)
    if consent.as_json:
        print_json({"file": str(path), "change": change, "written": is_written})
    return is_written


def _write(path: Path, before: str | None, after: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _NEW_FILE if before is None else stat.S_IMODE(path.stat().st_mode)
        replace_text(path, before, after, mode)
    except FileChangedError:
        raise ConfigurationError(f"{path} was just changed by another program. Try again.") from None
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror}); it is as it was.") from exc
