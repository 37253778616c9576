"""The chat of the terminal: one message, or a conversation."""

import asyncio
import signal
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click
from typing_extensions import override

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.preparation import allow_rich
from agentapi_mcp.cli.chat.clients import ChatClient, Following, session_of
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.chat.screens import Answer, PlainAnswer, followed
from agentapi_mcp.cli.outputs import FAILED, INTERRUPTED, print_json
from agentapi_mcp.cli.replies import ChatReply
from agentapi_mcp.cli.terminal import is_plain, print_err, print_fact, print_out
from agentapi_mcp.core.conversations.requests import MAX_MESSAGE_BYTES

_MOST_PIPED = MAX_MESSAGE_BYTES + 100  # a mark of the encoding and ends of lines do not count


async def chat(
    client: ChatClient, options: ChatOptions, message: str | None, *, home: Path, environ: Mapping[str, str]
) -> None:
    """Send one message, or run a conversation until the end of input; `home` is where its history is kept."""
    session = await session_of(client, options)
    if session is not None:
        options = replace(options, session_id=session.session_id)
    if message is None and options.estimate and sys.stdin.isatty():
        raise InvalidRequestError("Say the message to estimate, or pipe it in; a conversation has /estimate for it.")
    if message is None and sys.stdin.isatty():
        await _load("opening").hold(client, options, session, home=home, environ=environ)
        return
    if message is None:
        message = await _piped()
    message = message.rstrip("\n") if message.strip() else message
    if options.estimate:
        await _estimate(client, options, message)
        return
    with _interrupts() as interrupted:
        reply = await _send_message(client, options, message, interrupted)
    if not reply.completed:
        raise click.exceptions.Exit(INTERRUPTED if reply.cancelled and interrupted.is_set() else FAILED)


def _load(name: str) -> ModuleType:
    """Import a module of what edits and renders, which is slow, and needed in a terminal alone."""
    allow_rich()
    return import_module(f"{__package__}.{name}")


@contextmanager
def _interrupts() -> Generator[asyncio.Event]:
    """Replace the handler of Ctrl-C with one that sets an event."""
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _piped() -> str:
    message = _decode(await asyncio.to_thread(sys.stdin.buffer.read, _MOST_PIPED + 1))
    if not message.strip():
        raise InvalidRequestError("There is nothing on stdin: pipe a message in, or pass it as an argument.")
    return message


def _decode(piped: bytes) -> str:
    if len(piped) > _MOST_PIPED:
        raise InvalidRequestError(
            f"What comes on stdin has more than the {MAX_MESSAGE_BYTES:,} bytes of a message. Send a part of it, "
            "or tell an agent that reads files where it is."
        )
    try:
        # A byte order mark marks the encoding and must not become part of the message.
        return piped.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"What comes on stdin is not UTF-8 text, from byte {exc.start} on.") from None


async def _estimate(client: ChatClient, options: ChatOptions, message: str) -> None:
    fields = await client.estimate(options, message)
    if options.as_json:
        print_json(fields)
    else:
        print_out(fields["text"])


async def _send_message(
    client: ChatClient, options: ChatOptions, message: str, interrupted: asyncio.Event
) -> ChatReply:
    reply = await followed(client, options, message, Following(interrupted), _answer(options))
    if options.as_json:
        print_json(reply.turn)
    for told in filter(None, (reply.error, reply.warning)):
        print_err(f"agentapi-mcp: {told}")
    if reply.joined is not None:
        print_fact(reply.joined)
    if not options.as_json:
        print_fact(f"[{reply.bill} · session {reply.session_id}]")
    return reply


def _answer(options: ChatOptions) -> Answer:
    if options.as_json:
        return _Unshown()
    if options.screen_reader or is_plain():
        return PlainAnswer()
    answer: Answer = _load("rendering").markdown_answer()
    return answer


class _Unshown(Answer):
    """An answer of which nothing is shown before its end."""

    @override
    def add(self, text: str) -> None:
        pass

    @override
    def end(self) -> None:
        pass
