"""The MCP clients that `connect` knows: where each keeps its servers, in which shape, and what to do then."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from agentapi_mcp.cli import jsonc
from agentapi_mcp.core.errors import ConfigurationError

Entry = dict[str, object]
_HEADER = re.compile(r"\s*\[\[?[^\[\],=]+\]\]?\s*(?:#.*)?$")  # an item of a list has a comma, or is refused below


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
class JsonForm:
    """An object of servers under a key of a JSON file, which may hold comments."""

    key: str

    def find(self, text: str, name: str) -> Entry | None:
        """Return the entry of this name."""
        if not text.strip("\ufeff \t\r\n"):
            return None
        document = jsonc.parse(text).value
        servers = cast("Entry", document).get(self.key) if isinstance(document, dict) else None
        found = cast("Entry", servers).get(name) if isinstance(servers, dict) else None
        return cast("Entry", found) if isinstance(found, dict) else None

    def put(self, text: str, name: str, entry: Entry) -> str:
        """Return the text with the entry, and all else as it was."""
        return jsonc.put(text, (self.key, name), entry)

    def take(self, text: str, name: str) -> str:
        """Return the text without the entry."""
        return jsonc.take(text, (self.key, name))

    def show(self, name: str, entry: Entry) -> str:
        """Return what to paste."""
        return json.dumps({self.key: {name: entry}}, indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class TomlForm:
    """A table for each server in a TOML file."""

    key: str

    def find(self, text: str, name: str) -> Entry | None:
        """Return the entry of this name."""
        servers = tomllib.loads(text).get(self.key)
        found = cast("Entry", servers).get(name) if isinstance(servers, dict) else None
        return cast("Entry", found) if isinstance(found, dict) else None

    def put(self, text: str, name: str, entry: Entry) -> str:
        """Return the text with the entry, and all else as it was."""
        if self.find(text, name) == entry:
            return text
        rest = self.take(text, name)
        newline = "\r\n" if "\r\n" in text else "\n"
        if rest and not rest.endswith("\n"):
            rest += newline
        table = self.show(name, entry).replace("\n", newline) + newline
        return self._checked(text, name, entry, rest + (newline if rest.strip() else "") + table)

    def take(self, text: str, name: str) -> str:
        """Return the text without the entry."""
        if self.find(text, name) is None:
            return text
        lines = text.splitlines(keepends=True)
        ours = re.compile(rf"\s*\[\s*{self.key}\s*\.\s*(?:{re.escape(name)}|\"{re.escape(name)}\")\s*[.\]]")
        kept: list[str] = []
        inside = False
        for line in lines:
            if _HEADER.match(line):
                inside = ours.match(line) is not None
                if inside and kept and not kept[-1].strip():
                    kept.pop()  # the empty line that stood before it
            if not inside:
                kept.append(line)
        return self._checked(text, name, None, "".join(kept))

    def show(self, name: str, entry: Entry) -> str:
        """Return what to paste."""
        lines = [f"[{self.key}.{name}]", *(f"{key} = {_toml(value)}" for key, value in entry.items())]
        return "\n".join(lines)

    def _checked(self, before: str, name: str, entry: Entry | None, after: str) -> str:
        """Return the new text, if nothing but the entry differs: a file may say the same in many ways."""
        wanted = tomllib.loads(before)
        servers = wanted.setdefault(self.key, {})
        servers.pop(name, None)
        if entry is not None:
            servers[name] = entry
        try:
            found = tomllib.loads(after)
        except tomllib.TOMLDecodeError:
            found = None
        if found is None or found | {self.key: found.get(self.key, {})} != wanted:
            raise ConfigurationError(
                f"The file says {self.key} in a way that cannot be changed safely: do it by hand (--print shows how)."
            )
        return after


def _toml(value: object) -> str:
    """Write a value as TOML does: all but a table of texts is written as in JSON."""
    if not isinstance(value, dict):
        return json.dumps(value)
    items = cast("dict[str, str]", value).items()
    return "{ " + ", ".join(f"{key} = {json.dumps(said)}" for key, said in items) + " }"


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
    args = entry.get("args")
    words = [entry.get("command"), *(cast("list[object]", args) if isinstance(args, list) else [])]
    return any(re.search(r"agentapi[-_]mcp", word) for word in words if isinstance(word, str))
