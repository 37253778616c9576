"""Questions to a person at the terminal."""

import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from agentapi_mcp.cli.outputs import INTERRUPTED
from agentapi_mcp.cli.terminal import print_err


def confirm(question: str, *, default: bool = True) -> bool:
    """Ask for a yes or a no."""
    with _interruptible():
        return click.confirm(question, default=default, err=True)  # noqa: TID251  # here it can be interrupted


def ask_secret(question: str) -> str:
    """Ask for a text that is not shown as it is typed, without the white space around it."""
    with _interruptible():
        return click.prompt(question, hide_input=True, err=True).strip()  # noqa: TID251  # as above


def ask_passphrase(question: str, *, twice: bool) -> str:
    """Ask for a text that is not shown as it is typed, and is taken as it is."""
    with _interruptible():
        return click.prompt(question, hide_input=True, confirmation_prompt=twice, err=True)  # noqa: TID251  # as above


def ask(question: str) -> str:
    """Ask for a text, until there is one."""
    with _interruptible():
        return click.prompt(question, err=True).strip()  # noqa: TID251  # as above


def choose(question: str, choices: Sequence[str]) -> str:
    """Ask for one of several texts, until one of them is given."""
    kind = click.Choice(choices)
    with _interruptible():
        return click.prompt(question, type=kind, show_choices=False, err=True)  # noqa: TID251  # as above


@contextmanager
def _interruptible() -> Generator[None]:
    """Let Ctrl-C end the command: the handler of the event loop notes it, and the question would wait on."""
    is_interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except click.Abort:
        if not is_interrupted:  # Ctrl-D
            raise
        print_err("")  # the line of the question
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)
