"""The MCP clients that `connect` knows: where each keeps its servers, in which shape, and what to do then."""

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
from agentapi_mcp.base.json_values import as_list, as_object, is_object
from agentapi_mcp.cli import jsonc

Entry = dict[str, object]


class Form(Protocol):
    """How a client's file says its servers; texts in, texts out."""

    def find(self, text: str, name: str) -> Entry | None:
        """Return the entry of this name."""
        ...

    def put(self, text: str, name: str, entry: Entry) -> str:
        """Return the text with the entry, and all else as it was."""
        ...

    def take(self, text: str, name: str) -> str:
        """Return the text without the entry."""
        ...

    def show(self, name: str, entry: Entry) -> str:
        """Return what to paste."""
        ...


@dataclass(frozen=True, slots=True)
class JsonForm(Form):
    """An object of servers under a key of a JSON file, which may hold comments."""

    key: str

    @override
    def find(self, text: str, name: str) -> Entry | None:
        if not text.strip("\ufeff \t\r\n"):
            return None
        found = as_object(as_object(jsonc.parse(text).value).get(self.key)).get(name)
        return found if is_object(found) else None

    @override
    def put(self, text: str, name: str, entry: Entry) -> str:
        return jsonc.put(text, (self.key, name), entry)

    @override
    def take(self, text: str, name: str) -> str:
        return jsonc.take(text, (self.key, name))

    @override
    def show(self, name: str, entry: Entry) -> str:
        return json.dumps({self.key: {name: entry}}, indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class TomlForm(Form):
    """A table for each server in a TOML file."""

    key: str

    @override
    def find(self, text: str, name: str) -> Entry | None:
        return _toml_edits().find(text, (self.key, name))

    @override
    def put(self, text: str, name: str, entry: Entry) -> str:
        with self._refusing():
            return _toml_edits().put(text, (self.key, name), entry)

    @override
    def take(self, text: str, name: str) -> str:
        with self._refusing():
            return _toml_edits().take(text, (self.key, name))

    @override
    def show(self, name: str, entry: Entry) -> str:
        return _toml_edits().render((self.key, name), entry).rstrip("\n")

    @contextmanager
    def _refusing(self) -> Generator[None]:
        try:
            yield
        except _toml_edits().UnsafeEditError as exc:
            raise ConfigurationError(
                f"The file says {self.key} in a way that cannot be changed safely: do it by hand (--print shows how)."
            ) from exc


def _toml_edits() -> ModuleType:
    """Import the editor of TOML when a client has such a file: its library is slow to load."""
    return import_module("agentapi_mcp.cli.toml_edits")


@dataclass(frozen=True, slots=True, kw_only=True)
class McpClient:
    """A client; `made_by_it` tells whether the directory of its file shows that it is there."""

    title: str
    file: Path
    form: Form
    then: str
    typed: bool = False
    made_by_it: bool = True
    more: Mapping[str, object] = field(default_factory=dict[str, object])

    def entry(self, command: str, args: list[str], env: Mapping[str, str]) -> Entry:
        """Say how the server is started, in this client's words."""
        entry: Entry = {"type": "stdio"} if self.typed else {}
        entry |= {"command": command, "args": args}
        if env:
            entry["env"] = dict(env)
        return entry | dict(self.more)


NAMES = ("claude-desktop", "claude-code", "vscode", "cursor", "codex")


def find_client(name: str, system: str, environ: Mapping[str, str]) -> McpClient:
    """Return the client of this name as it is on this system."""
    home = Path(environ.get("HOME") or Path.home())
    if system == "darwin":
        settings = home / "Library" / "Application Support"
    elif system == "win32":
        settings = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    match name:
        case "claude-desktop":
            return McpClient(
                title="Claude Desktop",
                file=settings / "Claude" / "claude_desktop_config.json",
                form=JsonForm("mcpServers"),
                then="Quit Claude Desktop and start it again.",
            )
        case "claude-code":
            return McpClient(
                title="Claude Code",
                file=Path(environ.get("CLAUDE_CONFIG_DIR") or home) / ".claude.json",
                form=JsonForm("mcpServers"),
                then="Start claude anew; /mcp lists its servers.",
                typed=True,
                made_by_it=False,
            )
        case "vscode":
            return McpClient(
                title="VS Code",
                file=settings / "Code" / "User" / "mcp.json",
                form=JsonForm("servers"),
                then='In VS Code, run "MCP: List Servers" and start it.',
                typed=True,
            )
        case "cursor":
            return McpClient(
                title="Cursor",
                file=home / ".cursor" / "mcp.json",
                form=JsonForm("mcpServers"),
                then="In Cursor's settings, under MCP, switch it on.",
            )
        case _:
            return McpClient(
                title="Codex",
                file=Path(environ.get("CODEX_HOME") or home / ".codex") / "config.toml",
                form=TomlForm("mcp_servers"),
                then="Start codex anew; /mcp lists its servers.",
                more={"tool_timeout_sec": 120},
            )


def is_ours(entry: Entry) -> bool:
    """Tell whether an entry starts this program."""
    words = [entry.get("command"), *as_list(entry.get("args"))]
    return any(re.search(r"agentapi[-_]mcp", word) for word in words if isinstance(word, str))
