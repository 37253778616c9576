"""Where the settings say that the master keys are."""

from agentapi_mcp.auth.master_keys import MasterKeySource
from agentapi_mcp.settings import Settings


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
