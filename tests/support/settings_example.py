"""The example of the settings, as `make settings` writes it."""

from pathlib import Path
from typing import cast

from pydantic import SecretStr

from agentapi_mcp.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "config" / "settings.example.env"
KEYS = {  # what the packaged agents are given, by their file
    "OPENROUTER_API_KEY": "The key of the agent `droid`.",
    "AGENTAPI_OPENROUTER_BASE_URL": "Another address for the agent `droid`.",
    "AGENTAPI_DROID_COMMAND": "The Droid CLI, by name or path, for the agent `droid` to work with.",
    "AGENTAPI_CCROUTER_BASE_URL": "Where the agent `ccrouter` finds its router.",
    "CCROUTER_API_KEY": "The router's APIKEY, if it has one.",
}


def variable(name: str) -> str:
    """Name the environment variable of a setting."""
    return f"AGENTAPI_{name.upper()}"


def written(default: object) -> str:
    """Write a default as an environment variable has it."""
    if default is None or isinstance(default, SecretStr):
        return ""
    return ",".join(map(str, cast("tuple[object, ...]", default))) if isinstance(default, tuple) else str(default)


def example() -> str:
    """Render config/settings.example.env."""
    lines = ["# Every variable of agentapi-mcp with its default; take away the # before a line to use it."]
    for name, field in Settings.model_fields.items():
        lines += ["", f"# {field.description}", f"# {variable(name)}={written(field.default)}"]
    for key, meaning in KEYS.items():
        lines += ["", f"# {meaning}", f"# {key}="]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    EXAMPLE.write_text(example(), encoding="utf-8")
