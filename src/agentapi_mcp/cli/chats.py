"""The chat of the terminal: one message or a conversation, through any `ChatClient`."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import click
from typing_extensions import override

from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import AgentApiError, InvalidRequestError
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.cli.found_sessions import find_session, session_ids
from agentapi_mcp.cli.outputs import FAILED, INTERRUPTED, explain, print_json
from agentapi_mcp.cli.replies import ChatReply, to_reply, turn_fields
from agentapi_mcp.cli.terminal import print_err, print_fact, print_out
from agentapi_mcp.core.backends.events import TextDelta
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services

_READ_BYTES = 65_536
_HELP = "Commands: /agents, /agent NAME, /model NAME, /new (another session), /help, /quit. Ctrl-C cancels an answer."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Options of the command `chat`."""

    agent: str | None = None
    model: str | None = None
    session_id: str | None = None
    newest: bool = False
    as_json: bool = False
    idempotency_key: str | None = None
    retry: bool = False
    new: bool = False
    parameters: Parameters = field(default_factory=Parameters)

    def request(self, message: str) -> ChatRequest:
        """Build the request for one message."""
        return ChatRequest(
            message=message,
            agent=self.agent,
            model=self.model,
            session_id=self.session_id,
            idempotency_key=self.idempotency_key,
            retry=self.retry,
            new=self.new,
            parameters=self.parameters,
        )


class ChatClient(Protocol):
    """Sends messages to agents."""

    async def newest_session(self) -> str | None:
        """Return the id of the most recently used session."""
        ...

    async def sessions(self, cursor: str | None) -> Page[str]:
        """Read a page of the ids of the sessions."""
        ...

    async def agents(self) -> list[str]:
        """List the agents, one line each: the name, and what is missing or the description."""
        ...

    async def send(
        self, options: ChatOptions, message: str, on_text: Callable[[str], None], interrupted: asyncio.Event
    ) -> ChatReply:
        """Send a message and follow the turn to its end; cancel it when `interrupted` is set.

        Streamed text is passed to `on_text`; an implementation may deliver the reply only as a whole.
        """
        ...


class InProcessChatClient(ChatClient):
    """A chat client that calls the use cases in this process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @override
    async def newest_session(self) -> str | None:
        page = await self._services.sessions.list_(self._services.principal, limit=1)
        return str(page.items[0].id) if page.items else None

    @override
    async def sessions(self, cursor: str | None) -> Page[str]:
        return await session_ids(self._services, cursor)

    @override
    async def agents(self) -> list[str]:
        services = self._services
        agents = await read_all(lambda cursor: services.agents.list_(services.principal, cursor=cursor))
        return [f"{a.name}: {'; '.join(a.missing) or a.description}" for a in agents]

    @override
    async def send(
        self, options: ChatOptions, message: str, on_text: Callable[[str], None], interrupted: asyncio.Event
    ) -> ChatReply:
        principal, turns = self._services.principal, self._services.turns
        request = options.request(message)
        turn = await turns.start(principal, request)
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(self._cancel_when(interrupted, turn))
            async for event in turns.follow(principal, turn):
                if isinstance(event, TextDelta):
                    on_text(event.text)
            cancelling.cancel()
        ended = await turns.get(principal, str(turn.id))
        turns.delivered(ended)
        return to_reply(turn_fields(replace(ended, joined=turn.joined)), request)

    async def _cancel_when(self, interrupted: asyncio.Event, turn: Turn) -> None:
        await interrupted.wait()
        await self._services.turns.cancel(self._services.principal, str(turn.id))


async def chat(client: ChatClient, options: ChatOptions, message: str | None) -> None:
    """Send one message, or run a conversation until the end of input."""
    if options.newest:
        options = replace(options, session_id=await client.newest_session())
    elif options.session_id is not None:
        options = replace(options, session_id=await find_session(client.sessions, options.session_id))
    if message is None and not sys.stdin.isatty():
        message = _decode(await asyncio.to_thread(sys.stdin.buffer.read))
        if not message.strip():
            raise InvalidRequestError("There is nothing on stdin: pipe a message in, or pass it as an argument.")
    with _interrupts() as interrupted:
        if message is None:
            await _run_conversation(client, options, interrupted)
            return
        reply = await _send_message(client, options, message.rstrip("\n") if message.strip() else message, interrupted)
    if not reply.completed:
        raise click.exceptions.Exit(INTERRUPTED if reply.cancelled and interrupted.is_set() else FAILED)


@contextmanager
def _interrupts() -> Generator[asyncio.Event]:
    """Replace the handler of Ctrl-C with one that sets an event."""
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _decode(piped: bytes) -> str:
    try:
        # A byte order mark marks the encoding and must not become part of the message.
        return piped.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"What comes on stdin is not UTF-8 text, from byte {exc.start} on.") from None


async def _send_message(
    client: ChatClient, options: ChatOptions, message: str, interrupted: asyncio.Event
) -> ChatReply:
    streamed = False

    def show(text: str) -> None:
        nonlocal streamed
        streamed = True
        print_out(text, end="")

    reply = await client.send(options, message, (lambda _: None) if options.as_json else show, interrupted)
    if options.as_json:
        print_json(reply.turn)
    elif streamed:
        print_out("")
    elif reply.text:
        print_out(reply.text)
    for told in filter(None, (reply.error, reply.warning)):
        print_err(f"agentapi-mcp: {told}")
    if reply.joined is not None:
        print_fact(reply.joined)
    if not options.as_json:
        print_fact(f"[{reply.bill} · session {reply.session_id}]")
    return reply


async def _run_conversation(client: ChatClient, options: ChatOptions, interrupted: asyncio.Event) -> None:
    print_err(f"Say something; Ctrl-D leaves. {_HELP}")
    for line in await client.agents():
        print_err(f"  {line}")
    prompt = _Prompt(interrupted)
    while (line := await prompt.read_line()) is not None:
        if line.startswith("/"):
            changed = await _run_command(client, options, line)
            if changed is None:
                return
            options = changed
        elif line.strip():
            try:
                reply = await _send_message(client, options, line, interrupted)
                options = replace(options, session_id=reply.session_id)
            except AgentApiError as exc:
                print_err(f"agentapi-mcp: {explain(exc)}")


class _Prompt:
    """Reads lines from the terminal on the event loop.

    A thread in `input()` could not be cancelled, so that Ctrl-C would wait for the next line.
    """

    def __init__(self, interrupted: asyncio.Event) -> None:
        self._interrupted = interrupted
        self._buffer = b""

    async def read_line(self) -> str | None:
        """Read a line; return None at the end of input. The second Ctrl-C in a row exits."""
        self._interrupted.clear()
        warned = False
        print_out("> ", end="")
        while b"\n" not in self._buffer:
            await self._wait_for_input()
            if self._interrupted.is_set():
                self._interrupted.clear()
                if warned:
                    raise click.exceptions.Exit(INTERRUPTED)
                warned, self._buffer = True, b""
                print_err("\nCtrl-D or /quit leaves; so does another Ctrl-C.")
                print_out("> ", end="")
                continue
            typed = os.read(sys.stdin.fileno(), _READ_BYTES)
            if not typed:
                print_out("")
                return None
            self._buffer += typed
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    async def _wait_for_input(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), readable.set)
        try:
            await first_of(readable.wait(), self._interrupted.wait())
        finally:
            loop.remove_reader(sys.stdin.fileno())


async def _run_command(client: ChatClient, options: ChatOptions, line: str) -> ChatOptions | None:
    word, _, rest = (part.strip() for part in line.partition(" "))
    match word:
        case "/quit":
            return None
        case "/new":
            print_err("The next message begins a session.")
            return replace(options, session_id=None)
        case "/agent" if rest:
            return await _select_agent(client, options, rest)
        case "/model":
            print_err(f"The next message goes to {rest or 'the default model'}.")
            return replace(options, model=rest or None)
        case "/agent" | "/agents":
            print_err("\n".join(await client.agents()))
        case "/help":
            print_err(_HELP)
        case _:
            print_err(f"There is no command {word}. {_HELP}")
    return options


async def _select_agent(client: ChatClient, options: ChatOptions, agent: str) -> ChatOptions:
    agents = [line.partition(":")[0] for line in await client.agents()]
    if agent not in agents:
        print_err(f"There is no agent {agent}; there are: {', '.join(agents)}.")
        return options
    print_err(f"The next message goes to {agent}.")
    return replace(options, agent=agent, model=None)
