"""Where the settings say that the master keys are, and new ones."""

from __future__ import annotations

from agentapi_mcp.auth import master_keys
from agentapi_mcp.auth.master_keys import MasterKeySource

TYPE_CHECKING = False  # type checkers take it for true; a new key needs no settings
if TYPE_CHECKING:
    from agentapi_mcp.settings import Settings


def new_master_key() -> str:
    """Generate a master key in the format of AGENTAPI_MASTER_KEY."""
    return master_keys.new_master_key()


def master_key_source(settings: Settings) -> MasterKeySource | None:
    """Return where the master keys are read; None if none is configured."""
    text, file, command = settings.master_key, settings.master_key_file, settings.master_key_command
    if text is None and file is None and command is None:
        return None
    return MasterKeySource(
        text=None if text is None else text.get_secret_value(),
        file=file,
        command=None if command is None else command.get_secret_value(),
    )
