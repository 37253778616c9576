"""The one way to the terminal: everything that is printed passes here, and cannot drive it or hide from its reader."""

import os
import sys
import unicodedata
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, cast

from agentapi_mcp.base.visible import CONTEXT, replace_invisible

_environ = os.environ  # noqa: TID251  # the terminal's own variables, and the settings are slow to import
_KEPT = "\n\t"  # a reply has lines and columns
_COLOURS: Mapping[str, str] = {
    "green": "\x1b[32m",
    "yellow": "\x1b[33m",
    "red": "\x1b[31m",
    "bright_black": "\x1b[90m",
}
_RESET = "\x1b[0m"
_ENDED_BY_SIGPIPE = 128 + 13  # as shells show it
_NARROWEST, _USUAL = 20, 80  # columns
_WIDE = frozenset("WF")  # what takes two columns
_CLEAR_ROW = "\r\x1b[K"
_CLIPBOARD = "\x1b]52;c;{}\x07"  # OSC 52


class OutputError(OSError):
    """What is printed cannot be written, as to a file on a full disk."""


class CleanStream:
    """A text stream without the characters that a reader does not see; stdout is cleaned in a terminal alone.

    It takes the place of the process's own stream, so that what libraries print passes through it as well: messages
    of click, tracebacks, warnings. What goes into a pipe or a file is data, which stays as it is.
    """

    def __init__(self, stream: TextIO, *, only_in_terminal: bool) -> None:
        self.stream = stream
        self._only_in_terminal = only_in_terminal
        self._before = ""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the stream has
        if name == "buffer":  # which click would write to, past this, where the encoding is ASCII
            raise AttributeError(name)
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text without what is not seen in it."""
        if self._only_in_terminal and not self.stream.isatty():
            return _write(self.stream, text)
        # A streamed reply comes in pieces, and an emoji may be cut between two of them.
        shown = visible(text, self._before)
        self._before = (self._before + shown)[-CONTEXT:]
        _write(self.stream, shown)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered.

        Raises:
            OutputError: it cannot be written.
        """
        with _writing():
            self.stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all the lines."""
        for line in lines:
            self.write(line)


@contextmanager
def cleaned() -> Generator[None]:
    """Clean what is printed within, through whatever streams are the process's own now."""
    before = sys.stdout, sys.stderr
    clean_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def open_closed_streams() -> None:
    """Let what goes to streams that were closed, as by `>&-`, go nowhere, and not into the next file that is opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def give_up_output(error: OutputError) -> None:
    """Say that stdout cannot be written, and let the rest of it go nowhere."""
    with suppress(OSError):
        print_err(f"agentapi-mcp: The output cannot be written: {error.strerror}.")
    for stream in (sys.stdout, sys.stderr):  # else the interpreter tries again as it ends, and fails with a traceback
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def end_with_the_reader() -> NoReturn:
    """End as a program does that SIGPIPE ends, which Python ignores: who read the output has ended, as `head` does."""
    for stream in (sys.stdout, sys.stderr):  # else the interpreter tries again as it ends, and fails with a traceback
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(_ENDED_BY_SIGPIPE)


def clean_streams() -> None:
    """Clean from now on what this process prints."""
    sys.stdout = cast("TextIO", _clean(sys.stdout, only_in_terminal=True))
    sys.stderr = cast("TextIO", _clean(sys.stderr, only_in_terminal=False))


def visible(text: str, before: str = "") -> str:
    """Remove what is not seen; lines and tabs stay."""
    return replace_invisible(text, lambda _: "", keep=_KEPT, before=before)


def print_out(text: str, *, end: str = "\n") -> None:
    """Print on stdout and flush: a reply is streamed in pieces without line ends."""
    stream = _clean(sys.stdout, only_in_terminal=True)
    stream.write(text + end)
    stream.flush()


def print_err(text: str) -> None:
    """Print on stderr."""
    stream = _clean(sys.stderr, only_in_terminal=False)
    stream.write(text + "\n")
    stream.flush()


def terminal_stream() -> TextIO:
    """Return stdout itself, for what edits and renders there: it writes its own sequences around clean text."""
    return _bare(sys.stdout)


def write_rendered(text: str) -> None:
    """Write clean text with our own styles on stdout."""
    stream = terminal_stream()
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))


def is_plain() -> bool:
    """Whether stdout is no terminal, or one that only prints."""
    return _only_prints(_bare(sys.stdout))


def is_redrawn() -> bool:
    """Whether stderr is a terminal whose last row can be written anew."""
    return not _only_prints(_bare(sys.stderr))


def rewrite_row(text: str) -> None:
    """Write the last row of stderr anew, where that is possible: as much as fits, since a second row would stay."""
    stream = _bare(sys.stderr)
    stream.write(f"{_CLEAR_ROW}{_fitting(visible(text), terminal_width() - 1)}")
    stream.flush()


def print_prompt(text: str) -> None:
    """Print a prompt, and not among the answers where these go elsewhere."""
    if sys.stdout.isatty():
        print_out(text, end="")
    else:
        stream = _clean(sys.stderr, only_in_terminal=False)
        stream.write(text)
        stream.flush()


def terminal_width() -> int:
    """Return the columns of the terminal of stderr now."""
    return _columns(sys.stderr)


def output_width() -> int:
    """Return the columns of the terminal of stdout now."""
    return _columns(sys.stdout)


def prints_unicode() -> bool:
    """Whether stdout can encode every character."""
    return "utf" in (getattr(sys.stdout, "encoding", None) or "utf").lower()


def _columns(stream: TextIO) -> int:
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(columns, _NARROWEST) if columns else _USUAL


def send_to_clipboard(base64_text: str) -> None:
    """Ask the terminal to put a text into its clipboard."""
    stream = terminal_stream()
    stream.write(_CLIPBOARD.format(base64_text))
    stream.flush()


def print_fact(text: str) -> None:
    """Print on stderr what the program knows of an answer: in grey in a terminal, which no answer can be."""
    stream = _clean(sys.stderr, only_in_terminal=False)
    if not _is_coloured(stream):
        print_err(text)
        return
    stream.stream.write(f"{_COLOURS['bright_black']}{visible(text)}{_RESET}\n")
    stream.flush()


def print_labelled(label: str, colour: str, text: str) -> None:
    """Print a line on stdout that begins with a label, coloured in a terminal."""
    stream = _clean(sys.stdout, only_in_terminal=True)
    if _is_coloured(stream):
        stream.stream.write(f"{_COLOURS[colour]}{visible(label)}{_RESET}")
        label = ""
    stream.write(f"{label}{text}\n")
    stream.flush()


def _write(stream: TextIO, text: str) -> int:
    """Write a text; what the stream cannot encode, as a file name that is no UTF-8, is escaped."""
    with _writing():
        try:
            return stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "utf-8"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            return len(text)


@contextmanager
def _writing() -> Generator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputError(exc.errno, exc.strerror) from exc


def _fitting(text: str, columns: int) -> str:
    used = 0
    for index, character in enumerate(text):
        used += 2 if unicodedata.east_asian_width(character) in _WIDE else 1
        if used > columns:
            return text[:index]
    return text


def _bare(stream: TextIO) -> TextIO:
    return stream.stream if isinstance(stream, CleanStream) else stream


def _only_prints(stream: TextIO) -> bool:
    return not stream.isatty() or _environ.get("TERM", "dumb") in {"dumb", "unknown"}


def _is_coloured(stream: CleanStream) -> bool:
    return not _only_prints(stream.stream) and not _environ.get("NO_COLOR")


def _clean(stream: TextIO, *, only_in_terminal: bool) -> CleanStream:
    # A test, or click's test runner, may have put a stream of its own in the place of ours.
    return stream if isinstance(stream, CleanStream) else CleanStream(stream, only_in_terminal=only_in_terminal)
