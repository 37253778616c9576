"""Opens a conversation on the screen that fits the terminal."""

from collections.abc import Mapping
from pathlib import Path

from agentapi_mcp.base.home_names import CHAT_HISTORY
from agentapi_mcp.cli.chat.clients import ChatClient
from agentapi_mcp.cli.chat.conversation import Conversation, converse
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.chat.prompts import PromptScreen
from agentapi_mcp.cli.chat.screens import LineScreen
from agentapi_mcp.cli.chat.slash_commands import SlashCommands
from agentapi_mcp.cli.terminal import is_plain
from agentapi_mcp.presentation.models import SessionOut


async def hold(
    client: ChatClient,
    options: ChatOptions,
    session: SessionOut | None,
    *,
    home: Path,
    environ: Mapping[str, str],
) -> None:
    """Hold a conversation until the person leaves it."""
    screen = LineScreen() if options.screen_reader or is_plain() else PromptScreen(home / CHAT_HISTORY)
    commands = SlashCommands(Conversation(client, options, screen, session), environ)
    if isinstance(screen, PromptScreen):
        screen.complete_by(commands.choices)
    await converse(commands.conversation, commands.greet, commands.run)
