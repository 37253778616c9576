"""What was typed in earlier conversations: a file of this user alone, without which the chat works as well."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from prompt_toolkit.history import History
from typing_extensions import override

from agentapi_mcp.base.json_values import as_object, as_text, load_json

_FORMAT = "agentapi-mcp chat history"
_VERSION = 1
_HEAD = {"format": _FORMAT, "version": _VERSION}
_LONGEST = 10_000  # characters of a message that is kept here; each is in its session anyway
_KEPT = 1000
_MOST_BYTES = 20_000_000
_OTHERS = "is no history of this version"


class ChatHistory(History):
    """The history in a file: its first line says its version, each other one is a message as JSON.

    `say` hears once why the file cannot be used. `whole` makes the text that was sent of that in the prompt.
    """

    def __init__(self, path: Path, say: Callable[[str], None], whole: Callable[[str], str]) -> None:
        super().__init__()
        self._path = path
        self._say = say
        self._whole = whole
        self._writes = True

    @override
    def load_history_strings(self) -> Iterable[str]:
        """Return the messages, newest first."""
        try:
            texts = self._read()
        except FileNotFoundError:
            return []
        except OSError as exc:
            self._give_up(exc.strerror or str(exc))
            return []
        except ValueError:
            self._give_up(_OTHERS)
            return []
        return reversed(texts[-_KEPT:])

    @override
    def append_string(self, string: str) -> None:
        super().append_string(self._whole(string))

    @override
    def store_string(self, string: str) -> None:
        if self._writes and len(string) <= _LONGEST:
            try:
                self._append(string)
            except OSError as exc:
                self._give_up(exc.strerror or str(exc))

    def _read(self) -> list[str]:
        """Read all messages, and forget the oldest where there are too many.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is of another version, or no history.
        """
        with self._path.open("rb") as file:
            written = file.read(_MOST_BYTES)
        if not written:
            return []
        head, *lines = written.splitlines()
        if as_object(load_json(head)) != _HEAD:
            raise ValueError(_OTHERS)
        texts = [text for text in map(_message, lines) if text]
        if len(lines) > 2 * _KEPT:
            self._rewrite(texts[-_KEPT:])
        return texts

    def _append(self, text: str) -> None:
        with _opened(self._path, os.O_APPEND) as file:
            lines = [json.dumps(text)] if file.tell() else [json.dumps(_HEAD), json.dumps(text)]
            file.write("".join(f"{line}\n" for line in lines))

    def _rewrite(self, texts: list[str]) -> None:
        new = self._path.with_suffix(f".{os.getpid()}")
        with _opened(new, os.O_TRUNC) as file:
            file.write("".join(f"{json.dumps(line)}\n" for line in (_HEAD, *texts)))
        new.replace(self._path)

    def _give_up(self, why: str) -> None:
        self._writes = False
        self._say(f"What you type is not kept for the next time: {self._path}: {why}.")


def _message(line: bytes) -> str | None:
    """Return the message of a line; None for one that was cut, as on a full disk."""
    try:
        return as_text(load_json(line))
    except ValueError:
        return None


def _opened(path: Path, flags: int) -> TextIO:
    """Open a file to write, which nobody else may read."""
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "a" if flags & os.O_APPEND else "w")
    os.fchmod(file.fileno(), 0o600)  # one that was there may be open to others
    return file
