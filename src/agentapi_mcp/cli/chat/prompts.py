"""A terminal with a prompt that edits, remembers, completes and takes a pasted text as it is."""

import os
import signal
import sys
import termios
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import completion_is_selected
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from typing_extensions import override

from agentapi_mcp.cli.chat.history import ChatHistory
from agentapi_mcp.cli.chat.notices import Notices
from agentapi_mcp.cli.chat.pastes import Pastes
from agentapi_mcp.cli.chat.rendering import markdown_answer
from agentapi_mcp.cli.chat.screens import Answer, CtrlC, Interruption, Screen
from agentapi_mcp.cli.terminal import print_err, terminal_stream, visible

_STYLE = Style.from_dict({"agent": "ansicyan bold", "prompt": ""})
_MENU_ROWS = 6
_RESTORE = "\x1b[0m\x1b[?2004l\x1b[?25h"  # no style, no bracketed paste, and a cursor
_REPLACEMENT = "\ufffd"
Choices = Callable[[str], list[tuple[str, str]]]


class CommandCompleter(Completer):
    """Completes commands, and what may follow them, as `choices` says of the text before the cursor."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    @override
    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Generator[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        word = text.rpartition(" ")[2]
        for choice, about in self._choices(text):
            yield Completion(choice, start_position=-len(word), display_meta=visible(about))


class PromptScreen(Screen):
    """A terminal that edits; `history` is the file of what was typed."""

    def __init__(self, history: Path) -> None:
        self._stream = terminal_stream()
        self._input = Vt100Input(sys.stdin)
        self._pastes = Pastes()
        self._ahead: list[KeyPress] = []
        self._following: Interruption | None = None
        self._notices = Notices()
        self._before = termios.tcgetattr(sys.stdin.fileno())
        self._session = PromptSession[str](
            history=ChatHistory(history, print_err, self._pastes.whole),
            complete_while_typing=True,
            multiline=True,
            enable_suspend=True,
            key_bindings=self._keys(),
            style=_STYLE,
            color_depth=ColorDepth.from_env(),
            reserve_space_for_menu=_MENU_ROWS,
            input=self._input,
            output=Vt100_Output(self._stream, self._size, enable_bell=False, enable_cpr=False),
        )

    def complete_by(self, choices: Choices) -> None:
        """Complete commands by what these are."""
        self._session.completer = CommandCompleter(choices)

    @property
    @override
    def hint(self) -> str:
        return "Alt-Enter begins another line; a pasted text is one message; Tab completes."

    @property
    @override
    def edits(self) -> bool:
        return True

    @override
    @contextmanager
    def opened(self) -> Generator[None]:
        # For the whole time, so that nothing that is typed between two prompts is echoed by the terminal.
        with self._input.raw_mode():
            yield
        self._notices.show()

    @override
    def restore(self) -> None:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, self._before)
        self._stream.write(_RESTORE)
        self._stream.flush()

    @override
    @contextmanager
    def released(self) -> Generator[None]:
        # Else both read, and each gets some of the keys.
        with self._input.detach(), self._input.cooked_mode():
            yield

    @override
    @contextmanager
    def following(self, interruption: Interruption) -> Generator[None]:
        self._following = interruption
        try:
            with self._input.attach(self._read_ahead):
                yield
            self._take(self._input.flush_keys())
        finally:
            self._following = None
            interruption.end()
            while self._ahead and self._ahead[-1].key is Keys.ControlM:  # what was typed waits, and is not sent
                self._ahead.pop()
            store_typeahead(self._input, [_as_text(key) for key in self._ahead])
            self._ahead = []

    @override
    async def read(self, name: str, text: str = "") -> str | None:
        prompt = FormattedText([("class:agent", visible(name)), ("class:prompt", " > ")])
        text = self._pastes.short(text)
        while True:
            self._notices.show()
            try:
                text = await self._session.prompt_async(
                    prompt, default=text, handle_sigint=False, set_exception_handler=False
                )
            except EOFError:
                return None
            text, complaint = _sendable(self._pastes.whole(text))
            if complaint is None:
                return text
            print_err(complaint)
            text = self._pastes.short(text)

    @override
    def notice(self, line: str) -> None:
        self._notices.add(line)
        context = self._session.app.context  # of the prompt that is shown
        if context is not None and self._session.app.is_running:
            context.copy().run(run_in_terminal, self._notices.show)

    @override
    def interrupt(self) -> None:
        if self._following is not None:
            if self._following.press():
                self._ahead.append(KeyPress(Keys.ControlC))  # which leaves, as soon as the answer is stopped
        elif self._session.app.is_running:
            _leave(self._session.app.current_buffer.text, self._session.app.exit)

    @override
    def answer(self) -> Answer:
        return markdown_answer()

    def _size(self) -> Size:
        size = os.get_terminal_size(self._stream.fileno())
        return Size(rows=size.lines or 24, columns=size.columns or 80)

    def _read_ahead(self) -> None:
        self._take(self._input.read_keys())

    def _take(self, keys: list[KeyPress]) -> None:
        for key in keys:
            if key.key is Keys.ControlC and self._following is not None:
                self.interrupt()
            elif key.key is Keys.ControlZ:
                with self._input.cooked_mode():
                    os.kill(0, signal.SIGTSTP)
            else:
                self._ahead.append(key)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter", filter=~completion_is_selected)
        def send(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("enter", filter=completion_is_selected)
        def choose(event: KeyPressEvent) -> None:
            event.current_buffer.complete_state = None

        @keys.add("escape", "enter")
        @keys.add("c-j")
        def begin_line(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add(Keys.BracketedPaste)
        def paste(event: KeyPressEvent) -> None:
            # Terminals send the end of a pasted line as a carriage return.
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            event.current_buffer.insert_text(self._pastes.short(text))

        @keys.add("c-c")
        def leave(event: KeyPressEvent) -> None:
            _leave(event.current_buffer.text, event.app.exit)

        return keys


def _leave(text: str, exit_: Callable[..., None]) -> None:
    exit_(exception=CtrlC(typed=bool(text)), style="class:aborting")


def _as_text(key: KeyPress) -> KeyPress:
    """Return the key as part of a message: Enter does not send what nobody has seen."""
    return KeyPress(Keys.ControlJ, "\n") if key.key is Keys.ControlM else key


def _sendable(text: str) -> tuple[str, str | None]:
    """Return the text as a message can hold it, and what had to be changed, which its author looks at first."""
    told = list[str]()
    try:
        text.encode()
    except UnicodeEncodeError:
        changed = "".join(_REPLACEMENT if "\ud800" <= each <= "\udfff" else each for each in text)
        told.append(f"what is not UTF-8 is shown as {_REPLACEMENT}")
        text = changed
    if nuls := text.count("\0"):
        told.append(
            f"{nuls:,} NUL {'character is' if nuls == 1 else 'characters are'} left out, since no message can hold one"
        )
        text = text.replace("\0", "")
    return text, f"Nothing was sent yet: {', and '.join(told)}. Enter sends the rest." if told else None
