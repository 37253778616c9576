"""What was typed in earlier conversations: a file of this user alone, without which the chat works as well."""

import fcntl
import json
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
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
        # As in a shell, a space at the beginning keeps a line out of the file.
        if self._writes and len(string) <= _LONGEST and not string.startswith(" "):
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
        texts, is_long = self._messages()
        if is_long:
            with suppress(OSError):  # it stays as long as it is
                self._shorten()
        return texts

    def _messages(self) -> tuple[list[str], bool]:
        """Return the newest messages, and whether there are more than are kept."""
        with self._path.open("rb") as file:
            head = file.readline(_MOST_BYTES)
            if not head:
                return [], False
            if as_object(load_json(head)) != _HEAD:
                raise ValueError(_OTHERS)
            begin = max(file.seek(0, os.SEEK_END) - _MOST_BYTES, len(head))
            file.seek(begin)
            lines = file.read().splitlines()
        texts = [text for text in map(_message, lines[begin > len(head) :]) if text]
        return texts, begin > len(head) or len(lines) > 2 * _KEPT

    def _append(self, text: str) -> None:
        with _locked(self._path) as file:
            lines = [json.dumps(text)] if file.tell() else [json.dumps(_HEAD), json.dumps(text)]
            file.write("".join(f"{line}\n" for line in lines))

    def _shorten(self) -> None:
        """Forget the oldest messages; what another conversation adds meanwhile waits for the new file."""
        with _locked(self._path):
            texts, _ = self._messages()
            new = self._path.with_suffix(f".{os.getpid()}")
            with _opened(new, os.O_TRUNC) as file:
                file.write("".join(f"{json.dumps(line)}\n" for line in (_HEAD, *texts[-_KEPT:])))
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


@contextmanager
def _locked(path: Path) -> Generator[TextIO]:
    """Open the file to append to it, alone among the conversations of this user."""
    while True:
        with _opened(path, os.O_APPEND) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _opened(path: Path, flags: int) -> TextIO:
    """Open a file to write, which nobody else may read."""
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "a" if flags & os.O_APPEND else "w")
    os.fchmod(file.fileno(), 0o600)  # one that was there may be open to others
    return file
