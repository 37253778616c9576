"""Talking to an agent from the terminal, in this process or through the real MCP server."""

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
from agentapi_mcp.cli.outputs import FAILED, INTERRUPTED, explain, note, print_json, say
from agentapi_mcp.cli.replies import ChatReply, fields_of, reply_of
from agentapi_mcp.core.backends.events import TextDelta
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services

_MOST_AT_ONCE = 65_536
_HELP = "Commands: /agents, /agent NAME, /model NAME, /new (another session), /help, /quit. Ctrl-C cancels an answer."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What was asked for on the command line."""

    agent: str | None = None
    model: str | None = None
    session_id: str | None = None
    newest: bool = False
    as_json: bool = False
    idempotency_key: str | None = None
    parameters: Parameters = field(default_factory=Parameters)

    def request(self, message: str) -> ChatRequest:
        """Make the request for one message."""
        return ChatRequest(
            message=message,
            agent=self.agent,
            model=self.model,
            session_id=self.session_id,
            idempotency_key=self.idempotency_key,
            parameters=self.parameters,
        )


class Talk(Protocol):
    """A way to send messages."""

    async def newest_session(self) -> str | None:
        """Find the session that was used last."""
        ...

    async def agents(self) -> list[str]:
        """List the agents, each with what it lacks."""
        ...

    async def send(
        self, options: ChatOptions, message: str, on_text: Callable[[str], None], interrupted: asyncio.Event
    ) -> ChatReply:
        """Send a message and follow it to its end, or cancel it once interrupted.

        The text goes to `on_text` as it comes, if it comes in pieces.
        """
        ...


class DirectTalk(Talk):
    """Messages to the use cases in this process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @override
    async def newest_session(self) -> str | None:
        page = await self._services.sessions.list_(self._services.principal, limit=1)
        return str(page.items[0].id) if page.items else None

    @override
    async def agents(self) -> list[str]:
        page = await self._services.agents.list_(self._services.principal)
        return [f"{a.name}: {'; '.join(a.missing) or a.description}" for a in page.items]

    @override
    async def send(
        self, options: ChatOptions, message: str, on_text: Callable[[str], None], interrupted: asyncio.Event
    ) -> ChatReply:
        principal, turns = self._services.principal, self._services.turns
        turn = await turns.start(principal, options.request(message))
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(self._cancel_when(interrupted, turn))
            async for event in turns.follow(principal, turn):
                if isinstance(event, TextDelta):
                    on_text(event.text)
            cancelling.cancel()
        return reply_of(fields_of(await turns.get(principal, str(turn.id))))

    async def _cancel_when(self, interrupted: asyncio.Event, turn: Turn) -> None:
        await interrupted.wait()
        await self._services.turns.cancel(self._services.principal, str(turn.id))


async def chat(talk: Talk, options: ChatOptions, message: str | None) -> None:
    """Send one message, or talk until the end of input."""
    if options.newest:
        options = replace(options, session_id=await talk.newest_session())
    if message is None and not sys.stdin.isatty():
        message = _text_of(await asyncio.to_thread(sys.stdin.buffer.read))
        if not message.strip():
            raise InvalidRequestError("There is nothing on stdin: pipe a message in, or pass it as an argument.")
    with _interrupts() as interrupted:
        if message is None:
            await _converse(talk, options, interrupted)
            return
        reply = await _exchange(talk, options, message.rstrip("\n") if message.strip() else message, interrupted)
    if not reply.completed:
        raise click.exceptions.Exit(INTERRUPTED if reply.cancelled and interrupted.is_set() else FAILED)


@contextmanager
def _interrupts() -> Generator[asyncio.Event]:
    """Let Ctrl-C set an event, and do nothing else."""
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _text_of(piped: bytes) -> str:
    try:
        return piped.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"What comes on stdin is not UTF-8 text, from byte {exc.start} on.") from None


async def _exchange(talk: Talk, options: ChatOptions, message: str, interrupted: asyncio.Event) -> ChatReply:
    streamed = False

    def show(text: str) -> None:
        nonlocal streamed
        streamed = True
        say(text, end="")

    reply = await talk.send(options, message, (lambda _: None) if options.as_json else show, interrupted)
    if options.as_json:
        print_json(reply.turn)
    elif streamed:
        say("")
    elif reply.text:
        say(reply.text)
    if reply.error is not None:
        note(f"agentapi-mcp: {reply.error}")
    if not options.as_json:
        note(f"[{reply.bill} · session {reply.session_id}]")
    return reply


async def _converse(talk: Talk, options: ChatOptions, interrupted: asyncio.Event) -> None:
    note(f"Say something; Ctrl-D leaves. {_HELP}")
    for line in await talk.agents():
        note(f"  {line}")
    prompt = _Prompt(interrupted)
    while (line := await prompt.ask()) is not None:
        if line.startswith("/"):
            changed = await _obey(talk, options, line)
            if changed is None:
                return
            options = changed
        elif line.strip():
            try:
                reply = await _exchange(talk, options, line, interrupted)
                options = replace(options, session_id=reply.session_id)
            except AgentApiError as exc:
                note(f"agentapi-mcp: {explain(exc)}")


class _Prompt:
    """Asks for lines without a thread, which could not be left while it waits for one."""

    def __init__(self, interrupted: asyncio.Event) -> None:
        self._interrupted = interrupted
        self._typed = b""

    async def ask(self) -> str | None:
        """Ask for a line; None at the end of input. The second Ctrl-C in a row leaves."""
        self._interrupted.clear()
        refused = False
        say("> ", end="")
        while b"\n" not in self._typed:
            await self._something()
            if self._interrupted.is_set():
                self._interrupted.clear()
                if refused:
                    raise click.exceptions.Exit(INTERRUPTED)
                refused, self._typed = True, b""
                note("\nCtrl-D or /quit leaves; so does another Ctrl-C.")
                say("> ", end="")
                continue
            typed = os.read(sys.stdin.fileno(), _MOST_AT_ONCE)
            if not typed:
                say("")
                return None
            self._typed += typed
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace")

    async def _something(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), readable.set)
        try:
            await first_of(readable.wait(), self._interrupted.wait())
        finally:
            loop.remove_reader(sys.stdin.fileno())


async def _obey(talk: Talk, options: ChatOptions, line: str) -> ChatOptions | None:
    word, _, rest = (part.strip() for part in line.partition(" "))
    match word:
        case "/quit":
            return None
        case "/new":
            note("The next message begins a session.")
            return replace(options, session_id=None)
        case "/agent" if rest:
            return await _choose(talk, options, rest)
        case "/model":
            note(f"The next message goes to {rest or 'the default model'}.")
            return replace(options, model=rest or None)
        case "/agent" | "/agents":
            note("\n".join(await talk.agents()))
        case "/help":
            note(_HELP)
        case _:
            note(f"There is no command {word}. {_HELP}")
    return options


async def _choose(talk: Talk, options: ChatOptions, agent: str) -> ChatOptions:
    agents = [line.partition(":")[0] for line in await talk.agents()]
    if agent not in agents:
        note(f"There is no agent {agent}; there are: {', '.join(agents)}.")
        return options
    note(f"The next message goes to {agent}.")
    return replace(options, agent=agent, model=None)
