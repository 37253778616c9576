"""Read and validate the operator's catalogue files, and turn them into declarations."""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from pydantic import SecretStr, ValidationError

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.json_values import is_list, is_object
from agentapi_mcp.base.placeholders import unfilled
from agentapi_mcp.base.validation_messages import describe_fault
from agentapi_mcp.core.access.models import Issuer, SignInRules
from agentapi_mcp.core.accounts.models import AccountProvider
from agentapi_mcp.core.catalogue.models import AgentDeclaration, CatalogueFile
from agentapi_mcp.core.identity.principals import Role
from agentapi_mcp.stores.local.catalogue_shapes import AccountShape, AgentShape, FileShape, IssuerShape, keys_at
from agentapi_mcp.stores.local.toml_lines import TomlLines

DEFAULTS = Path(__file__).parents[2] / "defaults.toml"
FILE_NAME = "agentapi.toml"

_LARGEST = 4 * 1024 * 1024
_FORMAT = 1  # raise it to write an unchanged file to the database again
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")
_FILLED_IN = re.compile(r"(?:key|token|secret|password|url)$")  # options in whose place examples have a placeholder
_LARGE_NUMBER = re.compile(r"[0-9_]{4300,}|[0-9][0-9_.]*[eE][+-]?[0-9_]{7,}")
_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class _Source:
    """A file with its line numbers, for error messages."""

    path: Path
    lines: TomlLines

    def refuse(self, where: Sequence[str | int], reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self.path}, line {self.lines.line_of(where)}: {reason}")


def catalogue_paths(named: Path | None, home: Path) -> tuple[Path, ...]:
    """List the files to load: the packaged one, then the named one, or else the one in `home` if there is one.

    Raises:
        ConfigurationError: the home directory is not readable.
    """
    own = named if named is not None else home / FILE_NAME
    try:
        return (DEFAULTS, own) if named is not None or own.exists() else (DEFAULTS,)
    except OSError as exc:
        message = f"{home} cannot be used as the home ({exc.strerror}): set AGENTAPI_HOME to another directory."
        raise ConfigurationError(message) from exc


def named_variables(paths: Sequence[Path]) -> set[str]:
    """List the environment variables that the readable files refer to."""
    found: set[str] = set()
    for path in paths:
        try:
            found |= set(re.findall(r"\$\{(\w+)", path.read_text(encoding="utf-8", errors="replace")))
        except OSError:
            continue
    return found


def load_catalogue(
    paths: Sequence[Path], environ: Mapping[str, str], known_backends: Callable[[], Collection[str]]
) -> CatalogueFile:
    """Read the files in order; an agent of a later file replaces the whole agent of an earlier one.

    The hash excludes the options, which hold secrets: not even a digest of a secret reaches the database.

    Raises:
        ConfigurationError: a file is absent, unreadable or wrong; the message names file, line and reason.
    """
    agents: dict[str, AgentDeclaration] = {}
    issuers: dict[str, Issuer] = {}
    accounts: dict[str, AccountProvider] = {}
    roles: dict[str, Role] = {}
    known = known_backends()
    for path in paths:
        source, shape = _read(path)
        if not shape.use_defaults:
            agents.clear()
        for name, agent in shape.agents.items():
            _check(source, name, agent, known)
            agents[name] = _declaration(source, name, agent, environ)
        for index, issuer in enumerate(shape.issuers):
            if issuer.issuer in issuers:
                raise source.refuse(("issuers", index, "issuer"), f"a second issuer {issuer.issuer!r}")
            _check_services(source, index, issuer)
            secret = _client_secret(source, ("issuers", index), issuer.client_secret, environ)
            issuers[issuer.issuer] = replace(issuer.declaration(), client_secret=secret)
        for index, account in enumerate(shape.accounts):
            accounts[account.name] = _account(source, index, account, environ)
        _check_needs(source, shape, accounts)
        roles.update({word.strip().lower(): role for word, role in shape.roles.items()})
    declared = tuple(agents.values())
    sign_in = SignInRules(issuers=tuple(issuers.values()), roles=roles)
    return CatalogueFile(declared, _sha256(declared), sign_in, tuple(accounts.values()))


def _read(path: Path) -> tuple[_Source, FileShape]:
    text = _text(path)
    try:
        # Prices are money, which binary floats cannot represent exactly.
        document = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as exc:
        raise _syntax_error(path, text, str(exc)) from exc
    except (ValueError, ArithmeticError) as exc:
        raise ConfigurationError(f"{path}, line {_line_of_number(text)}: a number is too large") from exc
    except RecursionError as exc:
        raise ConfigurationError(f"{path}, line 1: it is nested too deeply") from exc
    source = _Source(path, TomlLines(text))
    try:
        return source, FileShape.model_validate(document)
    except ValidationError as exc:
        raise _first_fault(source, exc) from exc


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{path}: there is no such file; create it, or unset AGENTAPI_CONFIG.") from exc
    except OSError as exc:
        raise ConfigurationError(f"{path}: it cannot be read ({exc.strerror}).") from exc
    if len(raw) > _LARGEST:
        raise ConfigurationError(f"{path}: it is larger than {_LARGEST // 2**20} MiB.")
    try:
        # TOML is UTF-8; tomllib rejects the byte order mark that some editors write.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigurationError(f"{path}, line {line}: it is not UTF-8") from exc


def _syntax_error(path: Path, text: str, reason: str) -> ConfigurationError:
    found = _AT_LINE.search(reason)
    line = found[1] if found and found[1] else text.rstrip("\n").count("\n") + 1
    return ConfigurationError(f"{path}, line {line}: it is not valid TOML: {_AT_LINE.sub('', reason)}")


def _line_of_number(text: str) -> int:
    """Find the line of the first number that Python rejects; the parser does not report it."""
    found = _LARGE_NUMBER.search(text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _first_fault(source: _Source, invalid: ValidationError) -> ConfigurationError:
    faults = invalid.errors(include_url=False, include_input=False)
    # Missing keys come last: most often the key is present but misspelt, and that error is more helpful.
    fault = min(faults, key=lambda one: (one["type"] == "missing", source.lines.line_of(one["loc"])))
    where = fault["loc"]
    key = str(where[-2] if where[-1] == "[key]" else where[-1])
    match fault["type"]:
        case "extra_forbidden":
            return source.refuse(where, f"unknown key {key!r}; there are: {', '.join(keys_at(where))}")
        case "string_pattern_mismatch":
            return source.refuse(
                where, f"{key!r} is no name: letters, digits, '.', '_' and '-', at most 64, a letter or digit first"
            )
        case _:
            return source.refuse(where, f"{key!r} {describe_fault(fault)}")


def _check_services(source: _Source, index: int, issuer: IssuerShape) -> None:
    seen: set[tuple[str, str]] = set()
    for place, service in enumerate(issuer.services):
        where = ("issuers", index, "services", place)
        named = {"client_id": service.client_id, "subject": service.subject}
        names = [(key, name) for key, name in named.items() if name is not None]
        if len(names) != 1:
            raise source.refuse(where, "a service has either a 'client_id' or a 'subject'")
        [(key, name)] = names
        if (key, name) in seen:
            raise source.refuse((*where, key), f"a second service {name!r}")
        seen.add((key, name))


def _check(source: _Source, name: str, agent: AgentShape, known: Collection[str]) -> None:
    reached: list[tuple[str, tuple[str, ...]]] = [(agent.backend, ("agents", name, "backend"))]
    if agent.otherwise is not None:
        where = ("agents", name, "otherwise", "backend")
        reached.append((agent.otherwise.backend, where))
        if agent.otherwise.backend == agent.backend:
            raise source.refuse(where, "it must be another backend than the agent's own")
    for backend, where in reached:
        if backend not in known:
            raise source.refuse(where, f"there is no backend {backend!r}; there are: {', '.join(sorted(known))}")
    names: set[str] = set()
    for index, model in enumerate(agent.models):
        if model.name in names:
            raise source.refuse(("agents", name, "models", index, "name"), f"a second model {model.name!r}")
        names.add(model.name)
    if agent.default_model is not None and names and agent.default_model not in names:
        raise source.refuse(
            ("agents", name, "default_model"), f"{agent.default_model!r} is none of the models of agent {name!r}"
        )


def _declaration(source: _Source, name: str, agent: AgentShape, environ: Mapping[str, str]) -> AgentDeclaration:
    options, variables = _fill(source, ("agents", name, "options"), agent.options, environ)
    declared = AgentDeclaration(
        name=name,
        backend=agent.backend,
        description=agent.description,
        instructions=agent.instructions,
        enabled=agent.enabled,
        default_model=agent.default_model,
        abandon_after=timedelta(seconds=agent.abandon_after_seconds),
        options=options,
        missing=variables.missing,
        variables=variables.named,
        key_variables=_key_variables(agent.options, environ),
        lacks_key=variables.missing != () and not _has_other_unset_variables(agent.options, environ),
        models=tuple(model.declaration() for model in agent.models),
        needs_account=agent.needs_account,
    )
    if agent.otherwise is None:
        return declared
    where = ("agents", name, "otherwise", "options")
    options, variables = _fill(source, where, agent.otherwise.options, environ)
    otherwise = replace(
        declared,
        backend=agent.otherwise.backend,
        options=options,
        missing=variables.missing,
        variables=variables.named,
        key_variables=_key_variables(agent.otherwise.options, environ),
        lacks_key=variables.missing != () and not _has_other_unset_variables(agent.otherwise.options, environ),
    )
    return replace(declared, otherwise=otherwise)


def _key_variables(options: Mapping[str, object], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that the API key is read from."""
    variables = _Variables(environ)
    variables.fill(options.get("api_key"))
    return variables.named


def _has_other_unset_variables(options: Mapping[str, object], environ: Mapping[str, str]) -> bool:
    """Return whether an option other than `api_key` refers to an unset variable."""
    variables = _Variables(environ)
    variables.fill({name: value for name, value in options.items() if name != "api_key"})
    return variables.missing != ()


def _fill(
    source: _Source, where: tuple[str, ...], options: Mapping[str, object], environ: Mapping[str, str]
) -> tuple[dict[str, object], "_Variables"]:
    variables = _Variables(environ)
    filled: dict[str, object] = {}
    for key, value in options.items():
        try:
            filled[key] = variables.fill(value)
            variables.check_literal(key, filled[key])
        except _LooseVariableError as exc:
            raise source.refuse((*where, key), str(exc)) from exc
        except RecursionError as exc:
            raise source.refuse((*where, key), f"{key!r} is nested too deeply") from exc
    return filled, variables


def _account(source: _Source, index: int, account: AccountShape, environ: Mapping[str, str]) -> AccountProvider:
    fault = account.fault()
    if fault is not None:
        raise source.refuse(("accounts", index, fault[0]), fault[1])
    secret = _client_secret(source, ("accounts", index), account.client_secret, environ)
    return replace(account.declaration(), client_secret=secret)


def _check_needs(source: _Source, shape: FileShape, accounts: Collection[str]) -> None:
    names = [account.name for account in shape.accounts]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise source.refuse(("accounts", index, "name"), f"a second account {name!r}")
    for name, agent in shape.agents.items():
        if agent.needs_account is not None and agent.needs_account not in accounts:
            raise source.refuse(
                ("agents", name, "needs_account"), f"there is no [[accounts]] with the name {agent.needs_account!r}"
            )


def _client_secret(
    source: _Source, table: tuple[str, int], written: str | None, environ: Mapping[str, str]
) -> SecretStr | None:
    """Return the secret from the environment, or None where the variable is unset."""
    where, variables = (*table, "client_secret"), _Variables(environ)
    try:
        filled = variables.fill(written or "")
    except _LooseVariableError as exc:
        raise source.refuse(where, str(exc)) from exc
    if variables.missing:
        raise source.refuse(where, f"{'; '.join(variables.missing)}, which 'client_secret' names")
    return SecretStr(str(filled)) if filled else None


class _LooseVariableError(ValueError):
    """A `${` without a valid variable name."""


class _Variables:
    """Expands `${VAR}` and `${VAR:-default}`, and records those that are unset; `$$` is a dollar sign.

    One that holds a placeholder counts as unset, also where there is a default: somebody meant to set it.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lacking: dict[str, str] = {}
        self._named: dict[str, None] = {}

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(self._named)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(self._lacking.values())

    def fill(self, value: object) -> object:
        if isinstance(value, str):
            return _VARIABLE.sub(self._value, value)
        if isinstance(value, Decimal):
            return float(value)
        if is_list(value):
            return [self.fill(item) for item in value]
        if is_object(value):
            return {key: self.fill(item) for key, item in value.items()}
        return value

    def check_literal(self, option: str, value: object) -> None:
        """Record an option for a secret or a URL in which a placeholder was left."""
        reason = unfilled(value) if isinstance(value, str) and _FILLED_IN.search(option) else None
        if reason is not None:
            self._lacking[f"options.{option}"] = f"the option {option!r} {reason}"

    def _value(self, found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name = found[1]
        if name is None:
            raise _LooseVariableError(
                "'${' must be followed by a variable's name and '}'; write '$$' for a dollar sign"
            )
        if "${" in (found[2] or ""):
            raise _LooseVariableError("a default may not hold another '${'")
        self._named[name] = None
        value = self._environ.get(name, "")
        reason = unfilled(value)
        if reason is None and (value or found[2] is not None):
            return value or found[2]
        self._lacking[name] = f"{name} {reason or 'is not set'}"
        return ""


def _sha256(agents: tuple[AgentDeclaration, ...]) -> str:
    content = [
        asdict(replace(agent, options={}, missing=(), variables=(), key_variables=(), lacks_key=False, otherwise=None))
        for agent in agents
    ]
    return hashlib.sha256(json.dumps([_FORMAT, content], default=str, sort_keys=True).encode()).hexdigest()
