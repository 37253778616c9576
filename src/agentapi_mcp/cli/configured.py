"""The settings for commands; they are imported as they are read, since the help of a command needs none."""

from __future__ import annotations

from importlib import import_module

from agentapi_mcp.telemetry import configure_logs

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from agentapi_mcp.settings import Settings


def read_settings() -> Settings:
    """Read the settings from the environment, and log as they say.

    Raises:
        ConfigurationError: a variable is invalid.
    """
    settings: Settings = import_module("agentapi_mcp.settings").load_settings()
    configure_logs(settings.log_level)
    return settings
