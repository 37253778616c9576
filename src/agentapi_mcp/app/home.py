"""Where this user's data and configuration are, for what opens no database."""

from collections.abc import Mapping
from pathlib import Path

from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.server.paths import default_home


def home_of(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the directory of this user's data and configuration."""
    return default_home(environ) if settings.home is None else settings.home
