"""The MCP clients that `connect` supports: the file of each, its format, and the step after a change."""

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

from typing_extensions import override

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.cli import jsonc

Entry = dict[str, object]
_BOM = "\ufeff"


class ConfigFormat(Protocol):
    """Reads and edits the entries of servers in the text of a configuration file."""

    def find(self, text: str, name: str) -> Entry | None:
        """Return the entry with this name; what is there and is no entry of a server is an empty one."""
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
    def find(self, text: str, name: str) -> Entry | None:
        if not text.strip("\ufeff \t\r\n"):
            return None
        servers = as_object(as_object(jsonc.parse(text).value).get(self.key))
        return as_object(servers[name]) if name in servers else None

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
    def find(self, text: str, name: str) -> Entry | None:
        return _toml_edits().find(text.removeprefix(_BOM), (self.key, name))

    @override
    def put(self, text: str, name: str, entry: Entry) -> str:
        with self._map_unsafe_edits():
            return _mark_of(text) + _toml_edits().put(text.removeprefix(_BOM), (self.key, name), entry)

    @override
    def remove(self, text: str, name: str) -> str:
        with self._map_unsafe_edits():
            return _mark_of(text) + _toml_edits().remove(text.removeprefix(_BOM), (self.key, name))

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


def _mark_of(text: str) -> str:
    # Some editors of Windows write it, and Codex reads it, unlike our two parsers.
    return _BOM if text.startswith(_BOM) else ""


def _toml_edits() -> ModuleType:
    """Import the TOML editor on first use: tomlkit is slow to load."""
    return import_module("agentapi_mcp.cli.toml_edits")


@dataclass(frozen=True, slots=True, kw_only=True)
class McpClient:
    """An MCP client; with `has_own_directory`, the directory of its file exists only if the client was used."""

    title: str
    file: Path
    format: ConfigFormat
    next_step: str
    writes_type: bool = False
    has_own_directory: bool = True
    extra_fields: Mapping[str, object] = field(default_factory=dict[str, object])

    def entry(self, command: str, args: list[str], env: Mapping[str, str]) -> Entry:
        """Build the entry that makes this client start the server."""
        entry: Entry = {"type": "stdio"} if self.writes_type else {}
        entry |= {"command": command, "args": args}
        if env:
            entry["env"] = dict(env)
        return entry | dict(self.extra_fields)


NAMES = ("claude-desktop", "claude-code", "vscode", "cursor", "codex")


def find_client(name: str, system: str, environ: Mapping[str, str]) -> McpClient:
    """Return a client with the paths of this operating system."""
    home = Path(environ.get("HOME") or Path.home())
    if system == "darwin":
        settings_directory = home / "Library" / "Application Support"
    elif system == "win32":
        settings_directory = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        settings_directory = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    match name:
        case "claude-desktop":
            return McpClient(
                title="Claude Desktop",
                file=settings_directory / "Claude" / "claude_desktop_config.json",
                format=JsonFormat("mcpServers"),
                next_step="Quit Claude Desktop and start it again.",
            )
        case "claude-code":
            return McpClient(
                title="Claude Code",
                file=Path(environ.get("CLAUDE_CONFIG_DIR") or home) / ".claude.json",
                format=JsonFormat("mcpServers"),
                next_step="Start claude anew; /mcp lists its servers.",
                writes_type=True,
                has_own_directory=False,
            )
        case "vscode":
            return McpClient(
                title="VS Code",
                file=settings_directory / "Code" / "User" / "mcp.json",
                format=JsonFormat("servers"),
                next_step='In VS Code, run "MCP: List Servers" and start it.',
                writes_type=True,
            )
        case "cursor":
            return McpClient(
                title="Cursor",
                file=home / ".cursor" / "mcp.json",
                format=JsonFormat("mcpServers"),
                next_step="In Cursor's settings, under MCP, switch it on.",
            )
        case _:
            return McpClient(
                title="Codex",
                file=Path(environ.get("CODEX_HOME") or home / ".codex") / "config.toml",
                format=TomlFormat("mcp_servers"),
                next_step="Start codex anew; /mcp lists its servers.",
                # By default, Codex gives up on a tool call after 60 s (docs/clients.md).
                extra_fields={"tool_timeout_sec": 120},
            )


def is_ours(entry: Entry) -> bool:
    """Return whether an entry starts this program."""
    words = [entry.get("command"), *as_list(entry.get("args"))]
    return any(re.search(r"agentapi[-_]mcp", word) for word in words if isinstance(word, str))


def env_of(entry: Entry) -> dict[str, object]:
    """Return the environment variables that an entry sets; a value may be anything that its file can hold."""
    return dict(as_object(entry.get("env")))
