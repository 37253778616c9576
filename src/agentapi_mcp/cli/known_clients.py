"""The MCP clients that `connect` supports: where the file of each is, what is in it, and the step after a change."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.cli.mcp_clients import EnvReferences, JsonFormat, McpClient, TomlFormat

_DOLLAR = EnvReferences("${NAME}", re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}"))
_DOLLAR_OR_BARE = EnvReferences(
    "${NAME}", re.compile(r"\$(?:\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|(?P<bare>[A-Za-z_]\w*))")
)
# VS Code knows ${input:NAME} too, which asks the user; its agents' sessions do not start servers that have one.
_DOLLAR_ENV = EnvReferences("${env:NAME}", re.compile(r"\$\{env:(?P<name>\w+)\}"))
_BRACES_ENV = EnvReferences("{env:NAME}", re.compile(r"\{env:(?P<name>\w+)\}"))


@dataclass(frozen=True, slots=True)
class _Places:
    """The directories of a user; `settings` is the one of desktop programs, `config` that of XDG."""

    home: Path
    settings: Path
    config: Path
    system: str
    environ: Mapping[str, str]

    def named_by(self, variable: str, otherwise: Path) -> Path:
        return Path(self.environ.get(variable) or otherwise)


def find_client(name: str, system: str, environ: Mapping[str, str]) -> McpClient:
    """Return a client with the paths of this operating system."""
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    if system == "darwin":
        settings = home / "Library" / "Application Support"
    elif system == "win32":
        settings = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        settings = config
    return _CLIENTS[name](_Places(home, settings, config, system, environ))


def installed_clients(system: str, environ: Mapping[str, str]) -> dict[str, McpClient]:
    """Return the clients that are on this machine, by their names."""
    known = {name: find_client(name, system, environ) for name in NAMES}
    return {name: client for name, client in known.items() if client.is_installed(environ)}


def _claude_desktop(places: _Places) -> McpClient:
    directory = places.settings / "Claude"
    return McpClient(
        title="Claude Desktop",
        file=directory / "claude_desktop_config.json",
        format=JsonFormat("mcpServers"),
        next_step="Quit Claude Desktop and start it again.",
        directory=directory,
        tool_prefix="NAME:",
    )


def _claude_code(places: _Places) -> McpClient:
    return McpClient(
        title="Claude Code",
        file=places.named_by("CLAUDE_CONFIG_DIR", places.home) / ".claude.json",
        format=JsonFormat("mcpServers"),
        next_step="Start claude anew; /mcp lists its servers.",
        programs=("claude",),
        directory=None,
        type_word="stdio",
        references=_DOLLAR,
        extra_fields={"alwaysLoad": True},
        remark="Claude Code waits for this server (alwaysLoad), so that its first turn has the tools.",
    )


def _vscode(places: _Places) -> McpClient:
    directory = places.settings / "Code" / "User"
    return McpClient(
        title="VS Code",
        file=directory / "mcp.json",
        format=JsonFormat("servers"),
        next_step='In VS Code, run "MCP: List Servers" and start it.',
        programs=("code",),
        directory=directory,
        type_word="stdio",
        tool_prefix="mcp_NAME_",
        references=_DOLLAR_ENV,
    )


def _cursor(places: _Places) -> McpClient:
    directory = places.home / ".cursor"
    return McpClient(
        title="Cursor",
        file=directory / "mcp.json",
        format=JsonFormat("mcpServers"),
        next_step="In Cursor's settings, under MCP, switch it on.",
        programs=("cursor",),
        directory=directory,
        tool_prefix="NAME:",
        longest_name=60,
        references=_DOLLAR_ENV,
    )


def _codex(places: _Places) -> McpClient:
    directory = places.named_by("CODEX_HOME", places.home / ".codex")
    return McpClient(
        title="Codex",
        file=directory / "config.toml",
        format=TomlFormat("mcp_servers"),
        next_step="Start codex anew; /mcp lists its servers.",
        programs=("codex",),
        directory=directory,
        # By default, Codex leaves out a server that needs more than 1 s for its first turn, gives up on a tool
        # call after 60 s (docs/clients.md), and refuses `chat` where nobody can be asked, as in `codex exec`.
        extra_fields={
            "startup_timeout_sec": 30,
            "tool_timeout_sec": 120,
            "required": True,
            "default_tools_approval_mode": "approve",
        },
        forwarding="env_vars",
        remark="Codex waits for this server (required), so that its first turn has the tools, and calls them "
        "without asking you (approve), since `codex exec` would refuse chat. connect keeps what you change.",
    )


def _gemini(places: _Places) -> McpClient:
    directory = places.named_by("GEMINI_CLI_HOME", places.home) / ".gemini"
    return McpClient(
        title="Gemini CLI",
        file=directory / "settings.json",
        format=JsonFormat("mcpServers"),
        next_step="Start gemini anew; /mcp lists its servers. It starts none in a folder that you do not trust.",
        programs=("gemini",),
        directory=directory,
        tool_prefix="mcp_NAME_",
        longest_name=63,
        references=_DOLLAR_OR_BARE,
    )


def _opencode(places: _Places) -> McpClient:
    directory = places.config / "opencode"
    with_comments = directory / "opencode.jsonc"
    return McpClient(
        title="opencode",
        file=with_comments if with_comments.exists() else directory / "opencode.json",
        format=JsonFormat("mcp"),
        next_step="Start opencode anew; `opencode mcp list` shows its servers.",
        programs=("opencode",),
        directory=directory,
        type_word="local",
        joins_words=True,
        env_key="environment",
        tool_prefix="NAME_",
        references=_BRACES_ENV,
        # In milliseconds, for the start and for each call. The very first start makes the database.
        extra_fields={"timeout": 60_000},
        remark="opencode waits up to 60 s for this server and for each of its answers (timeout).",
    )


def _windsurf(places: _Places) -> McpClient:
    directory = places.home / ".codeium" / "windsurf"
    return McpClient(
        title="Windsurf",
        file=directory / "mcp_config.json",
        format=JsonFormat("mcpServers"),
        next_step="In Windsurf's Cascade panel, under MCPs, refresh the list.",
        programs=("windsurf",),
        directory=directory,
        references=_DOLLAR_ENV,
    )


def _zed(places: _Places) -> McpClient:
    directory = places.settings / "Zed" if places.system == "win32" else places.config / "zed"
    return McpClient(
        title="Zed",
        file=directory / "settings.json",
        format=JsonFormat("context_servers"),
        next_step="In Zed's settings, under AI, MCP Servers, the dot beside it becomes green.",
        programs=("zed", "zeditor"),
        directory=directory,
        tool_prefix="NAME_",
    )


def _junie(places: _Places) -> McpClient:
    directory = places.home / ".junie"
    return McpClient(
        title="JetBrains Junie",
        file=directory / "mcp" / "mcp.json",
        format=JsonFormat("mcpServers"),
        next_step="In your IDE's settings, under Tools, Junie, MCP Settings, switch it on.",
        programs=("junie",),
        directory=directory,
    )


_CLIENTS: dict[str, Callable[[_Places], McpClient]] = {
    "claude-code": _claude_code,
    "claude-desktop": _claude_desktop,
    "codex": _codex,
    "cursor": _cursor,
    "gemini": _gemini,
    "junie": _junie,
    "opencode": _opencode,
    "vscode": _vscode,
    "windsurf": _windsurf,
    "zed": _zed,
}
NAMES = tuple(_CLIENTS)
