"""The clients that ask a model: how each is told of the server and of its model, and how it is given a prompt."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.environments import python_of
from clients.place import Target
from tests.support import npm_peers

_NODE = 22
NAME = "agentapi"


@dataclass(frozen=True)
class Started:
    """The words and the environment that start a client."""

    words: Sequence[str]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Prompted:
    """A client that asks a model: `prepare` writes its configuration into its home and says how to start it."""

    name: str
    version: Callable[[], str]
    prepare: Callable[[Path, Target, str], Started]
    read_tool: str | None = None  # its tool that reads a resource, and the server's name beside the address
    read_names_server: bool = True
    transports: tuple[str, ...] = ("stdio", "http")

    def reading(self, uri: str) -> dict[str, object]:
        """Return the arguments that read a resource."""
        return {"server": NAME, "uri": uri} if self.read_names_server else {"uri": uri}


def _entry(target: Target) -> dict[str, object]:
    return {"command": target.command[0], "args": list(target.command[1:]), "env": dict(target.env)}


def _codex(home: Path, target: Target, base: str) -> Started:
    place = home / ".codex"
    place.mkdir()
    lines = [
        'model = "fake"\nmodel_provider = "fake"\napproval_policy = "never"\n[model_providers.fake]\nname = "fake"',
        f'base_url = "{base}/v1"\nwire_api = "responses"\nenv_key = "FAKE_KEY"\nrequest_max_retries = 0',
        f"[mcp_servers.{NAME}]\nstartup_timeout_sec = 60\nrequired = true",
        'default_tools_approval_mode = "approve"',
    ]
    if target.url:
        lines.append(f'url = "{target.url}"')
    else:
        env = ", ".join(f"{name} = {json.dumps(value)}" for name, value in target.env.items())
        lines.append(f"command = {json.dumps(target.command[0])}\nargs = []\nenv = {{ {env} }}")
    (place / "config.toml").write_text("\n".join(lines) + "\n")
    found = npm_peers.installed("npm_codex") / "@openai" / "codex-linux-x64" / "vendor"
    binary = next(found.glob("*/bin/codex"))
    return Started([str(binary), "exec", "--skip-git-repo-check"], {"FAKE_KEY": "x", "CODEX_HOME": str(place)})


def _claude_code(home: Path, target: Target, base: str) -> Started:
    entry = {"type": "http", "url": target.url} if target.url else {"type": "stdio", **_entry(target)}
    file = home / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {NAME: {**entry, "alwaysLoad": True}}}))
    binary = npm_peers.installed("npm_claude_code") / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
    words = [str(binary), "--mcp-config", str(file), "--strict-mcp-config", "--allowedTools", f"mcp__{NAME}", "-p"]
    quiet = {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    return Started(words, {"ANTHROPIC_BASE_URL": base, "ANTHROPIC_API_KEY": "sk-ant-fake", **quiet})


def _gemini_cli(home: Path, target: Target, base: str) -> Started:
    place = home / ".gemini"
    place.mkdir()
    entry = {"httpUrl": target.url} if target.url else _entry(target)
    settings = {
        "mcpServers": {NAME: {**entry, "trust": True}},
        "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": False}},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
    }
    (place / "settings.json").write_text(json.dumps(settings))
    program = npm_peers.installed("npm_connect") / "@google" / "gemini-cli" / "bundle" / "gemini.js"
    node = str(npm_peers.node_bin(_NODE) / "node")
    words = [node, str(program), "--approval-mode", "yolo", "-m", "gemini-2.5-flash", "-p"]
    return Started(words, {"GEMINI_API_KEY": "x", "GOOGLE_GEMINI_BASE_URL": base, **npm_peers.node_environment(_NODE)})


def _opencode(home: Path, target: Target, base: str) -> Started:
    entry: dict[str, object] = {"type": "remote", "url": target.url}
    if target.url is None:
        entry = {"type": "local", "command": list(target.command), "environment": dict(target.env)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{base}/v1", "apiKey": "x"},
        "models": {"fake": {"name": "fake", "tool_call": True}},
    }
    file = home / "opencode.json"
    told = {"model": "fake/fake", "provider": {"fake": provider}, "mcp": {NAME: {**entry, "enabled": True}}}
    file.write_text(json.dumps({**told, "autoupdate": False, "share": "disabled", "permission": "allow"}))
    binary = npm_peers.installed("npm_connect") / "opencode-linux-x64-baseline" / "bin" / "opencode"
    env = {"OPENCODE_CONFIG": str(file), "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
    return Started([str(binary), "run"], env)


def _python(client: str) -> Callable[[Path, Target, str], Started]:
    """Return how a client is started that is a library: a script of ours in an environment of its own."""

    def prepare(_home: Path, target: Target, base: str) -> Started:
        script = Path(__file__).parent / "python" / f"{client}.py"
        told = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"{base}/v1", "OPENAI_AGENTS_DISABLE_TRACING": "1"}
        google = {"GOOGLE_API_KEY": "x", "GOOGLE_GEMINI_BASE_URL": base}
        crew = {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}
        return Started([str(python_of(client)), str(script), target.as_json()], told | google | crew)

    return prepare


def _npm_version(project: str, package: str) -> Callable[[], str]:
    return lambda: str(
        json.loads((npm_peers.installed(project) / package / "package.json").read_bytes())["version"]
    ).removesuffix("-linux-x64")


def _python_version(client: str, package: str) -> Callable[[], str]:
    def read() -> str:
        installed = (
            python_of(client).parents[1].glob(f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info")
        )
        return next(installed).name.removesuffix(".dist-info").rpartition("-")[2]

    return read


PROMPTED = {
    client.name: client
    for client in (
        Prompted(
            "claude-code",
            _npm_version("npm_claude_code", "@anthropic-ai/claude-code-linux-x64"),
            _claude_code,
            read_tool="ReadMcpResourceTool",
        ),
        Prompted("codex", _npm_version("npm_codex", "@openai/codex"), _codex, read_tool="read_mcp_resource"),
        Prompted(
            "gemini-cli",
            _npm_version("npm_connect", "@google/gemini-cli"),
            _gemini_cli,
            read_tool="read_mcp_resource",
            read_names_server=False,
        ),
        Prompted("opencode", _npm_version("npm_connect", "opencode-linux-x64-baseline"), _opencode),
        Prompted("agents-sdk", _python_version("agents_sdk", "openai-agents"), _python("agents_sdk")),
        Prompted("pydantic-ai", _python_version("pydantic_ai", "pydantic-ai-slim"), _python("pydantic_ai")),
        Prompted("langchain", _python_version("langchain", "langchain-mcp-adapters"), _python("langchain")),
        Prompted("adk", _python_version("adk", "google-adk"), _python("adk")),
        Prompted("crewai", _python_version("crewai", "crewai-tools"), _python("crewai")),
        Prompted("mcp-agent", _python_version("mcp_agent", "mcp-agent"), _python("mcp_agent")),
    )
}
ENVIRONMENT = {"PATH": os.defpath, "TERM": "xterm", "LANG": "C.UTF-8"}
