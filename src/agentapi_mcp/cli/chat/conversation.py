"""A conversation: messages, commands and answers, on any screen."""

import asyncio
import os
import signal
import termios
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace

from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.cli.chat.bills import Bills
from agentapi_mcp.cli.chat.clients import ChatClient, Following
from agentapi_mcp.cli.chat.notices import notice_stream
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.chat.screens import CtrlC, Interruption, Screen, followed
from agentapi_mcp.cli.outputs import explain
from agentapi_mcp.cli.replies import ChatReply, Fields
from agentapi_mcp.cli.terminal import print_err, print_fact, terminal_width
from agentapi_mcp.presentation.models import AgentOut, SessionOut
from agentapi_mcp.telemetry import logs_to

_ENDS = {signal.SIGTERM: "Ended by a signal.", signal.SIGHUP: "The terminal was closed."}
_NOBODY = "no agent"


class Conversation:
    """The state of a conversation.

    `answering` is the agent that answers, as far as it is known; `message` the last one that was sent, and `asked` its
    turn, if it is known what became of it; `reply` the last answer; `lost` the last turn, if its answer never came.
    """

    def __init__(self, client: ChatClient, options: ChatOptions, screen: Screen, session: SessionOut | None) -> None:
        self.client = client
        self.options = options
        self.screen = screen
        self.bills = Bills()
        self.answering = options.agent or (session and session.agent)
        self.message: str | None = None
        self.reply: ChatReply | None = None
        self.drafted = ""
        self.asked: Fields | None = None
        self.lost: str | None = None
        self._following: Following | None = None
        self._default: str | None = None

    @property
    def name(self) -> str:
        """The agent that the next message goes to."""
        return self.options.agent or self.answering or self._default or _NOBODY

    async def read(self) -> str | None:
        """Read what is typed next; None to leave."""
        text, self.drafted = self.drafted, ""
        return await self.screen.read(self.name, text)

    async def agents(self) -> list[AgentOut]:
        """List the agents, and see which one answers where none is named."""
        self._default = await self.client.default_agent()
        return await self.client.agents()

    async def send(self, message: str, interrupted: asyncio.Event, *, again: ChatOptions | None = None) -> None:
        """Send a message and show the answer."""
        if again is None:
            await self._go_on_with_session()
        self.message, self.asked, self._following = message, None, Following(interrupted)
        try:
            answer = self.screen.answer()
            self._take(await followed(self.client, again or self.options, message, self._following, answer))
        except Exception:
            self.lost = self._following.turn_id()
            raise
        finally:
            self._following = None

    async def _go_on_with_session(self) -> None:
        """Find the session that was begun by a message whose answer was lost."""
        lost, self.lost = self.lost, None
        if lost is not None and self.options.session_id is None:
            self.options = replace(self.options, session_id=await self.client.session_id(lost))

    def leave(self, last_words: str, signal_number: int | None = None) -> None:
        """End the program in the middle of anything: with status 0, or by a signal, as that ends other programs.

        The server may be one that answers no more, so nobody waits for it.
        """
        with suppress(OSError, termios.error):  # the terminal may be gone
            self.screen.restore()
            print_err(f"\n{last_words}{self._what_goes_on()}")
        if signal_number is None:
            os._exit(0)
        signal.signal(signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), signal_number)

    def _what_goes_on(self) -> str:
        """Say how to find the answer that is left alone."""
        if self._following is None:
            return ""
        id_ = self._following.turn_id()
        if id_ is None:
            return " If the message has reached the server, `agentapi-mcp turns list` shows it first."
        return (
            f" The turn {id_} may go on, and cost: `agentapi-mcp turns show {id_}` shows what became of it, "
            f"`agentapi-mcp turns cancel {id_}` ends it."
        )

    def _take(self, reply: ChatReply) -> None:
        self.reply, self.asked = reply, reply.turn
        self.answering = str(reply.turn["agent"])
        # The key, and whether to ask anew, are those of the first message.
        self.options = replace(self.options, session_id=reply.session_id, idempotency_key=None, retry=False, new=False)
        self.bills.add(reply.turn)
        for told in filter(None, (reply.error, reply.warning)):
            print_err(f"agentapi-mcp: {told}")
        if reply.joined is not None:
            print_fact(reply.joined)
        print_fact(self.bills.line(reply, terminal_width()))


async def converse(
    conversation: Conversation,
    greet: Callable[[], Awaitable[None]],
    run_command: Callable[[str, asyncio.Event], Awaitable[bool | None]],
) -> None:
    """Read and answer until the end of input, or until Ctrl-C is pressed twice.

    `run_command` returns None for what is no command, and False to leave.
    """
    screen, leaves_next = conversation.screen, False
    with screen.opened(), logs_to(notice_stream(screen.notice)), _signals(conversation):
        with _interruptible(conversation) as interrupted:
            await unless_interrupted(greet(), interrupted)
        while True:
            try:
                text = await conversation.read()
            except CtrlC as key:
                if leaves_next and not key.typed:
                    return
                leaves_next = True
                print_err("Ctrl-C again leaves; so does Ctrl-D.")
                continue
            if text is None:
                return
            with _interruptible(conversation) as interrupted:
                if await _act(conversation, run_command, text, interrupted) is False:
                    return
            leaves_next = interrupted.is_set()


@contextmanager
def _interruptible(conversation: Conversation) -> Generator[asyncio.Event]:
    """Let Ctrl-C stop what goes on within, which looks at the event, and a second one leave."""
    interruption = Interruption(lambda: conversation.leave("The server does not answer."))
    with conversation.screen.following(interruption):
        yield interruption.stopped


async def _act(
    conversation: Conversation,
    run_command: Callable[[str, asyncio.Event], Awaitable[bool | None]],
    text: str,
    interrupted: asyncio.Event,
) -> bool | None:
    """Do what a line asks for; what is wrong with it is told."""
    try:
        goes_on = await run_command(text, interrupted)
        if goes_on is None and text.strip():
            await conversation.send(text, interrupted)
    except Exception as exc:
        cause = innermost(exc)
        if not isinstance(cause, AgentApiError):
            raise
        print_err(f"agentapi-mcp: {explain(cause)}")
        return None
    return goes_on


async def unless_interrupted(work: Awaitable[None], interrupted: asyncio.Event) -> None:
    """Wait for something, but no longer than to Ctrl-C."""

    async def wait() -> None:
        await work

    await first_of(wait(), interrupted.wait())


@contextmanager
def _signals(conversation: Conversation) -> Generator[None]:
    """Take SIGINT for the key: `kill -INT`, or a terminal that turns the key into it; end well by the others."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, conversation.screen.interrupt)
    for number, words in _ENDS.items():
        loop.add_signal_handler(number, conversation.leave, words, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, *_ENDS):
            loop.remove_signal_handler(number)
