"""What an MCP client is to `connect`: its file, the format of that, and the entry that starts this server."""

import json
import os
import re
import shutil
import tomllib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Protocol, cast

from typing_extensions import override

from agentapi_mcp.base.errors import ConfigurationError, InvalidRequestError
from agentapi_mcp.base.json_values import as_list, as_object, is_list
from agentapi_mcp.cli import jsonc

Entry = dict[str, object]
_BOM = "\ufeff"


class ConfigFormat(Protocol):
    """Reads and edits the entries of servers in the text of a configuration file."""

    def servers(self, text: str) -> dict[str, Entry]:
        """Return the entries of all servers by their names."""
        ...

    def find(self, text: str, name: str) -> Entry | None:
        """Return the entry with this name; what is there and is no entry of a server is an empty one."""
        ...

    def load(self, text: str) -> Entry:
        """Return the whole document."""
        ...

    def put(self, text: str, name: str, entry: Entry) -> str:
        """Return the text with the entry added or replaced, all else unchanged."""
        ...

    def remove(self, text: str, name: str) -> str:
        """Return the text without the entry, all else unchanged."""
        ...

    def show(self, name: str, entry: Entry) -> str:
        """Return the text that a user would paste."""
        ...


@dataclass(frozen=True, slots=True)
class JsonFormat(ConfigFormat):
    """Servers as an object under a key of a JSON file with comments."""

    key: str

    @override
    def servers(self, text: str) -> dict[str, Entry]:
        return {name: as_object(each) for name, each in as_object(self.load(text).get(self.key)).items()}

    @override
    def find(self, text: str, name: str) -> Entry | None:
        return self.servers(text).get(name)

    @override
    def load(self, text: str) -> Entry:
        return as_object(jsonc.parse(text).value) if text.strip("\ufeff \t\r\n") else {}

    @override
    def put(self, text: str, name: str, entry: Entry) -> str:
        return jsonc.put(text, (self.key, name), entry)

    @override
    def remove(self, text: str, name: str) -> str:
        return jsonc.remove(text, (self.key, name))

    @override
    def show(self, name: str, entry: Entry) -> str:
        return json.dumps({self.key: {name: entry}}, indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class TomlFormat(ConfigFormat):
    """Servers as tables of a TOML file."""

    key: str

    @override
    def servers(self, text: str) -> dict[str, Entry]:
        return {name: as_object(each) for name, each in as_object(self.load(text).get(self.key)).items()}

    @override
    def find(self, text: str, name: str) -> Entry | None:
        return _toml_edits().find(text, (self.key, name))

    @override
    def load(self, text: str) -> Entry:
        return tomllib.loads(text.removeprefix(_BOM))

    @override
    def put(self, text: str, name: str, entry: Entry) -> str:
        with self._map_unsafe_edits():
            return cast("str", _toml_edits().put(text, (self.key, name), entry))

    @override
    def remove(self, text: str, name: str) -> str:
        with self._map_unsafe_edits():
            return cast("str", _toml_edits().remove(text, (self.key, name)))

    @override
    def show(self, name: str, entry: Entry) -> str:
        return _toml_edits().render((self.key, name), entry).rstrip("\n")

    @contextmanager
    def _map_unsafe_edits(self) -> Generator[None]:
        try:
            yield
        except _toml_edits().UnsafeEditError as exc:
            raise ConfigurationError(
                f"The file says {self.key} in a way that cannot be changed safely: do it by hand (--print shows how)."
            ) from exc


def _toml_edits() -> ModuleType:
    """Import the TOML editor on first use: tomlkit is slow to load."""
    return import_module("agentapi_mcp.cli.toml_edits")


@dataclass(frozen=True, slots=True)
class EnvReferences:
    """How the values of a client's file refer to variables of its environment: as a template with NAME in it."""

    template: str
    pattern: re.Pattern[str]  # with the groups `name` and, where the client knows them, `bare` and `default`

    def to(self, name: str) -> str:
        """Return the reference to a variable."""
        return self.template.replace("NAME", name)

    def resolve(self, value: str, environ: Mapping[str, str]) -> str | None:
        """Return the value that the client gives the server; None if it is not known here."""
        found = [each.groupdict() for each in self.pattern.finditer(value)]
        values = [environ.get(each["name"] or each.get("bare") or "") or each.get("default") for each in found]
        texts = self.pattern.split(value)[:: self.pattern.groups + 1]
        if None in values or any("${" in text for text in texts):
            return None
        return "".join(f"{text}{value or ''}" for text, value in zip_longest(texts, values))


# The longest name of a tool of this server.
LONGEST_TOOL = 18
# What the command of the server takes beside nothing; each has a value.
SERVER_OPTIONS = ("--toolsets", "--tool-prefix")
_PROGRAM, _MODULE = "agentapi-mcp", "agentapi_mcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpClient:
    """An MCP client: it is installed where one of its `programs` is on the PATH, or its `directory` exists.

    Its file refers to variables by `references`, or lists those to hand on under the key `forwarding`. With neither of
    them, the file must hold the values themselves. `extra_fields` are for clients that would otherwise ask their model
    before the server has told its tools, or give up on calls; `remark` tells the user what they do. Its model knows a
    tool by `tool_prefix`, with the name of the server for NAME, and the tool's name: `longest_name` characters at most.
    """

    title: str
    file: Path
    format: ConfigFormat
    next_step: str
    programs: tuple[str, ...] = ()
    directory: Path | None
    type_word: str | None = None
    joins_words: bool = False
    env_key: str = "env"
    tool_prefix: str = "mcp__NAME__"
    longest_name: int = 64
    references: EnvReferences | None = None
    forwarding: str | None = None
    extra_fields: Mapping[str, object] = field(default_factory=dict[str, object])
    remark: str | None = None

    @property
    def copies_values(self) -> bool:
        """Whether a variable can be handed on by its value only."""
        return self.references is None and self.forwarding is None

    def is_installed(self, environ: Mapping[str, str]) -> bool:
        """Return whether the client is there: its program, or what it made when it was first used."""
        places = (self.file, self.directory)
        return any(each is not None and _is_there(each) for each in places) or any(
            shutil.which(program, path=environ.get("PATH", os.defpath)) for program in self.programs
        )

    def check_name(self, name: str, server_prefix: str = "") -> None:
        """Refuse a server's name with which the names of tools would be longer than models are given.

        `server_prefix` is what the server itself puts before the names (`--tool-prefix`).

        Raises:
            InvalidRequestError: it is too long for this client.
        """
        room = self.longest_name - len(self.tool_prefix.replace("NAME", "")) - LONGEST_TOOL - len(server_prefix)
        if len(name) > room:
            beside = f" beside the prefix {server_prefix}" if server_prefix else ""
            raise InvalidRequestError(
                f"--name may have at most {max(room, 0)} characters for {self.title}{beside}: it stands before each "
                "tool's name."
            )

    def server_prefix(self, entry: Entry, environ: Mapping[str, str]) -> str:
        """Return what the server of an entry puts before the names of its tools."""
        words = options_of(entry) or []
        given = [value for name, value in _pairs_of(words) if name == "--tool-prefix" and value]
        return given[-1] if given else self.start_environment(entry, environ).get("AGENTAPI_TOOL_PREFIX", "")

    def entry(self, words: Sequence[str], env: Mapping[str, str], handed_on: Mapping[str, str]) -> Entry:
        """Build the entry that makes this client start the server; `handed_on` is referred to where that can be."""
        entry: Entry = {"type": self.type_word} if self.type_word else {}
        entry |= {"command": list(words)} if self.joins_words else {"command": words[0], "args": list(words[1:])}
        values = dict(env)
        if self.forwarding is None:
            values |= {name: self.references.to(name) if self.references else handed_on[name] for name in handed_on}
        elif handed_on:
            entry[self.forwarding] = list(handed_on)
        if values:
            entry[self.env_key] = values
        return entry | dict(self.extra_fields)

    def merge(self, present: Entry, new: Entry) -> Entry:
        """Return an entry of ours as it becomes; fields and variables that the user added to it are preserved."""
        forwarded = as_list(new.get(self.forwarding)) if self.forwarding else []
        env = {name: value for name, value in env_of(present).items() if name not in forwarded} | env_of(new)
        merged = present | new | {name: present[name] for name in self.extra_fields if name in present}
        if self.forwarding and forwarded:
            before = as_list(present.get(self.forwarding))
            merged[self.forwarding] = [*before, *(name for name in forwarded if name not in before)]
        if not env:
            merged.pop(self.env_key, None)
            return merged
        return merged | {self.env_key: env}

    def remark_on(self, entry: Entry) -> str | None:
        """Return the remark if it holds for this entry, in which the user may have chosen otherwise."""
        return self.remark if all(entry.get(name) == value for name, value in self.extra_fields.items()) else None

    def handed_on(self, entry: Entry) -> set[str]:
        """Return the names of the variables that an entry gives the server."""
        return {*env_of(entry), *self._forwarded(entry)}

    def start_environment(self, entry: Entry, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that an entry gives the server, with their values; unknown ones are left out."""
        values = {name: environ[name] for name in self._forwarded(entry) if name in environ}
        for name, each in env_of(entry).items():
            value = self.references.resolve(str(each), environ) if self.references else str(each)
            if value is not None:
                values[name] = value
        return values

    def _forwarded(self, entry: Entry) -> list[str]:
        return [name for name in as_list(entry.get(self.forwarding or "")) if isinstance(name, str)]


def words_of(entry: Entry) -> list[str]:
    """Return the command of an entry with its arguments."""
    command = entry.get("command")
    words = [*(command if is_list(command) else [command]), *as_list(entry.get("args"))]
    return [word for word in words if isinstance(word, str)]


def is_ours(entry: Entry) -> bool:
    """Return whether an entry starts this program itself; through a container, ssh or a shell, it is the user's own."""
    return options_of(entry) is not None


def options_of(entry: Entry) -> list[str] | None:
    """Return the words after this program in the command of an entry; None if that starts something else."""
    command, *args = words_of(entry) or [""]
    starter = PurePosixPath(command.replace("\\", "/")).name.removesuffix(".exe")
    if starter == _PROGRAM:
        return args
    if re.fullmatch(r"py|python[0-9.]*", starter) and args[:2] == ["-m", _MODULE]:
        return args[2:]
    named = [at for at, word in enumerate(args) if re.fullmatch(rf"{_PROGRAM}(?:[@=<>~!\[].*)?", word)]
    return args[named[-1] + 1 :] if starter in {"uv", "uvx"} and named else None


def with_options(words: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Return the words of a command with options set: each in its place if it is there, else at the end."""
    left, kept = dict(given), list[str]()
    for name, value in _pairs_of(words):
        kept += [name, left.pop(name)] if name in left else [name] if value is None else [name, value]
    return [*kept, *(word for pair in left.items() for word in pair)]


def _pairs_of(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the options of this program with their values, and any other word without one."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in SERVER_OPTIONS:
            yield word, None
        else:
            yield name, value if equals else next(rest, None)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # it may not be looked into: whoever opens it is told so
        return True


def env_of(entry: Entry) -> dict[str, object]:
    """Return the environment variables that an entry sets; a value may be anything that its file can hold."""
    return {**as_object(entry.get("env")), **as_object(entry.get("environment"))}
