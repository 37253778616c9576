"""What commands share that carry or remove all data: ask, read a passphrase, and say how much there is."""

import sys
from collections.abc import Mapping, Sequence

import click

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.questions import ask_passphrase, confirm
from agentapi_mcp.cli.terminal import print_err

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
_MOST_PASSPHRASE = 1024
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_THOUSAND = 1000
# What people know of the tables; the order is that of the words.
_COUNTED = {
    "public.chat_sessions": "session",
    "public.chat_messages": "message",
    "agentapi.turns": "turn",
    "public.profiles": "user",
    "public.organizations": "organization",
    "agentapi.user_api_keys": "sealed key",
    "agentapi.personal_tokens": "personal token",
    "agentapi.audit_events": "audit event",
}


def ask(question: str, *, yes: bool) -> None:
    """Go on only if somebody agrees, or has by --yes.

    Raises:
        InvalidRequestError: nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidRequestError("Nobody can be asked whether you are sure: say --yes.")
    if not confirm(question, default=False):
        raise click.Abort


def read_passphrase(*, is_new: bool) -> str:
    """Read a passphrase from a hidden prompt, a new one twice, or the first line of a pipe.

    Raises:
        InvalidRequestError: it cannot be read.
    """
    try:
        if sys.stdin.isatty():
            prompt = "Passphrase for the master keys" if is_new else "Passphrase of the backup"
            passphrase = ask_passphrase(prompt, twice=is_new)
        else:
            print_err("The passphrase is read from stdin.")
            passphrase = sys.stdin.readline(_MOST_PASSPHRASE).rstrip("\r\n")
        # In a locale without UTF-8, Python reads each byte that is no ASCII as half of a surrogate pair.
        return passphrase.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise InvalidRequestError("The passphrase is no text in UTF-8: type it in a terminal in UTF-8.") from None


def size(count: int) -> str:
    """Write a number of bytes for people."""
    amount, unit = float(count), 0
    while amount >= _THOUSAND and unit < len(_UNITS) - 1:
        amount, unit = amount / _THOUSAND, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit < 2 else f"{amount:.1f} {_UNITS[unit]}"  # noqa: PLR2004  # up to kB


def counted(rows: Mapping[str, int]) -> str:
    """Say how much there is, by what people know of it."""
    said = [number_of(rows[name], word) for name, word in _COUNTED.items() if rows.get(name)]
    return listed_words(said) if said else "nothing yet"


def listed_words(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def sealed(kinds: Sequence[str]) -> str:
    """Say how many keys and accounts are sealed, of which each is a `key` or an `account`."""
    said = [number_of(kinds.count(kind), f"sealed {kind}") for kind in ("key", "account") if kind in kinds]
    return listed_words(said) if said else "no sealed key"
