"""The settings are documented, each by its own name."""

from pathlib import Path

from pydantic import SecretStr

from agentapi_mcp.settings import Settings

ROOT = Path(__file__).parents[2]


def variable(name: str) -> str:
    """Name the environment variable of a setting."""
    return f"AGENTAPI_{name.upper()}"


def example() -> str:
    """Render config/settings.example.env."""
    lines = ["# Every setting of agentapi-mcp with its default; take away the # before a line to use it."]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default in (None, ()) or isinstance(default, SecretStr) else str(default)
        lines += ["", f"# {field.description}", f"# {variable(name)}={shown}"]
    return "\n".join(lines) + "\n"


def test_the_example_shows_every_setting() -> None:
    assert (ROOT / "config" / "settings.example.env").read_text(encoding="utf-8") == example()


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"`{variable(name)}`" not in page] == []
