"""The commands of a conversation: lines that begin with the name of one."""

import asyncio
import base64
import os
import shlex
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.text import listed
from agentapi_mcp.cli.chat.bills import fitted
from agentapi_mcp.cli.chat.clients import find_named
from agentapi_mcp.cli.chat.conversation import Conversation, unless_interrupted
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.ids import short_id
from agentapi_mcp.cli.models import MODEL_COLUMNS
from agentapi_mcp.cli.outputs import aligned
from agentapi_mcp.cli.replies import Fields
from agentapi_mcp.cli.terminal import print_err, send_to_clipboard, terminal_width
from agentapi_mcp.core.backends.models import WITHOUT_MODEL
from agentapi_mcp.core.conversations.models import EndReason, TurnStatus
from agentapi_mcp.presentation.models import AgentOut, ModelOut
from agentapi_mcp.presentation.values import local_time

_SHOWN_SESSIONS = 20
_SHOWN_AGENTS = 3  # at the beginning
_LONGEST_COPY = 74_994  # bytes of base64 that xterm takes
_EDITOR = "vi"
_NONE = "none"
_BORROWS = "guide"  # the kind of agent that has no models and may be lent one
_NONE_USABLE = "  No agent can be used yet: /agents says what each of them lacks."
# What other programs call them; `exit` alone is what people type to leave, and would be a message that costs.
_MEANT = {
    "/exit": "/quit",
    "/q": "/quit",
    "exit": "/quit",
    "quit": "/quit",
    "/clear": "/new",
    "/history": "/sessions",
    "/system_prompt": "/system",
}


@dataclass(frozen=True, slots=True)
class _Command:
    """A command: what may follow it, or must, and what it does."""

    argument: str
    about: str
    needs_it: bool = False

    @property
    def shown(self) -> str:
        """The argument, in brackets where it may be left out."""
        return f"[{self.argument}]" if self.argument and not self.needs_it else self.argument


COMMANDS: Mapping[str, _Command] = {
    "/agent": _Command("NAME", "which agent gets the next message"),
    "/agents": _Command("", "the agents, and what they lack"),
    "/copy": _Command("", "put the last answer into the clipboard"),
    "/cost": _Command("", "what this conversation has cost, and what is left of your tightest budget"),
    "/edit": _Command("", "write a message in your editor"),
    "/estimate": _Command("MESSAGE", "what a message may cost; nobody is asked", needs_it=True),
    "/export": _Command("FILE", "write the session to a file, as Markdown"),
    "/help": _Command("", "these commands"),
    "/model": _Command("NAME", "which model answers; without a name the agent's own, or for guide none"),
    "/models": _Command("AGENT", "the models, with prices in US dollars for a million tokens"),
    "/new": _Command("", "begin another session"),
    "/quit": _Command("", "leave"),
    "/retry": _Command("", "ask the last message again"),
    "/session": _Command("ID", "go on with another session", needs_it=True),
    "/sessions": _Command("", "your newest sessions"),
    "/system": _Command("TEXT", f"instructions for the next messages; {_NONE}: without any"),
}


def help_lines() -> list[str]:
    """Return a line for each command: what is typed, and below each other what it does."""
    typed = [f"{name} {command.shown}".rstrip() for name, command in COMMANDS.items()]
    width = max(map(len, typed))
    return [f"  {line:<{width}}  {each.about}" for line, each in zip(typed, COMMANDS.values(), strict=True)]


class SlashCommands:
    """Runs the commands of a conversation."""

    def __init__(self, conversation: Conversation, environ: Mapping[str, str]) -> None:
        self.conversation = conversation
        self._environ = environ
        self._sessions: asyncio.Task[list[tuple[str, str]] | None] | None = None
        self._agents: list[AgentOut] = []
        self._works: Mapping[str, Callable[[str], Awaitable[None]]] = {
            "/agent": self._select_agent,
            "/agents": self._list_agents,
            "/copy": self._copy,
            "/cost": self._show_cost,
            "/estimate": self._estimate,
            "/export": self._export,
            "/help": self._show_help,
            "/model": self._select_model,
            "/models": self._list_models,
            "/new": self._begin_session,
            "/session": self._select_session,
            "/sessions": self._list_sessions,
            "/system": self._set_system,
        }

    async def greet(self) -> None:
        """Say how it works, and which agents there are."""
        width = terminal_width()
        how = "Say something. Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands."
        for line in (how, self.conversation.screen.hint):
            print_err("\n".join(wrap(line, width)))
        self._agents = await self.conversation.agents()
        name = self.conversation.name
        usable = sorted((each for each in self._agents if _lack(each) is None), key=lambda each: each.name != name)
        for agent in usable[:_SHOWN_AGENTS]:
            print_err(fitted(_line(agent), width))
        if others := len(self._agents) - len(usable[:_SHOWN_AGENTS]):
            print_err(f"  /agents shows {others} more, and what they lack." if usable else _NONE_USABLE)

    async def run(self, line: str, interrupted: asyncio.Event) -> bool | None:
        """Run the command of a line; return None for a message, and False to leave.

        Raises:
            InvalidRequestError: the command is misspelt, or lacks or has too much of what may follow it.
        """
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if self._sessions is not None and self._sessions.done():
            self._sessions = None  # there may be others soon
        command = COMMANDS.get(word.strip())
        if command is None:
            _refuse_misspelt(line, word)
            return None
        if (rest and not command.argument) or (command.needs_it and not rest):
            much = "takes nothing after it" if rest else f"needs the {command.argument} after it"
            raise InvalidRequestError(f"{word} {much}. With a space before it, it is a message.")
        match word.strip():
            case "/quit":
                return False
            case "/retry":
                await self._retry(interrupted)
            case "/edit":
                await self._edit(interrupted)
            case name:
                await unless_interrupted(self._works[name](rest), interrupted)
        return True

    def choices(self, text: str) -> list[tuple[str, str]]:
        """Return what may complete a line: each word, and what it is."""
        word, space, rest = text.partition(" ")
        known = self._known_sessions() if "/sessions".startswith(word) else []
        if not space:
            return [(name, command.about) for name, command in COMMANDS.items() if name.startswith(word)]
        match word:
            case "/agent" | "/models":
                found = [(agent.name, "; ".join(agent.missing) or agent.description) for agent in self._agents]
            case "/model":
                found = self._known_models()
            case "/session":
                found = known
            case "/system":
                found = [(_NONE, "without instructions")]
            case _:
                found = []
        return [(choice, about) for choice, about in found if choice.startswith(rest)]

    def _known_models(self) -> list[tuple[str, str]]:
        """Return the models that the agent may be told to answer with, and whose they are."""
        name = self.conversation.name
        asked = next((agent for agent in self._agents if agent.name == name), None)
        if asked is not None and asked.backend == _BORROWS:
            lent = [(f"{agent.name}/{model}", agent.name) for agent in self._agents for model in agent.models]
            return [*lent, (WITHOUT_MODEL, "without a model")]
        own = [(model, name) for model in asked.models] if asked is not None else []
        return own or [(model, agent.name) for agent in self._agents for model in agent.models]

    def _known_sessions(self) -> list[tuple[str, str]]:
        """Return the newest sessions, which are asked for when their command is begun.

        Nobody waits for them, since a completion that waits keeps others from coming; and nobody complains.
        """
        if self._sessions is None or (self._sessions.done() and self._sessions.result() is None):
            self._sessions = asyncio.ensure_future(self._newest_sessions())
        return (self._sessions.result() if self._sessions.done() else None) or []

    async def _newest_sessions(self) -> list[tuple[str, str]] | None:
        try:
            page = await self.conversation.client.sessions(None)
        except Exception:  # noqa: BLE001  # whatever it is: the command itself says so
            return None
        return [(short_id(each.session_id), each.title or "") for each in page.items]

    async def _list_agents(self, _: str) -> None:
        self._agents = await self.conversation.agents()
        for agent in self._agents:
            print_err(_line(agent))

    async def _select_agent(self, name: str) -> None:
        if not name:
            await self._list_agents("")
            return
        self._agents = await self.conversation.agents()
        agent = next((each for each in self._agents if each.name.casefold() == name.casefold()), None)
        if agent is None:
            names = listed([each.name for each in self._agents])
            raise InvalidRequestError(f"There is no agent {name}; there are: {names}.")
        if (lacks := _lack(agent)) is not None:
            raise InvalidRequestError(
                f"The agent {agent.name} cannot be used: {lacks}. "
                f"Set that up and start the program again; until then {self.conversation.name} answers."
            )
        self.conversation.options = replace(self.conversation.options, agent=agent.name, model=None)
        print_err(f"The next message goes to {agent.name}.")

    async def _select_model(self, name: str) -> None:
        self._agents = await self.conversation.agents()
        agents = {each.name: each for each in self._agents}
        asked = agents.get(self.conversation.name or "")
        if asked is not None and asked.backend == _BORROWS:
            await self._borrow_model(name, asked.name, agents)
        else:
            await self._select_own_model(name, agents)

    async def _borrow_model(self, name: str, borrower: str, agents: Mapping[str, AgentOut]) -> None:
        """Have a model of another agent write what this one answers, which that model's provider bills."""
        if name in {"", WITHOUT_MODEL}:
            self.conversation.options = replace(self.conversation.options, agent=borrower, model=WITHOUT_MODEL)
            print_err(f"The next message goes to {borrower}, without a model and at no cost.")
            return
        models = await self.conversation.client.models(None)
        found = [model for model in models if name == f"{model.agent}/{model.name}"] or [
            model for model in models if name in {model.name, model.model_id}
        ]
        usable = [model for model in found if model.enabled and _lack(agents[model.agent]) is None]
        if len(usable) > 1:
            names = listed([f"{model.agent}/{model.name}" for model in usable])
            raise InvalidRequestError(f"Several agents have a model {name}: name one of {names}.")
        if not usable:
            raise InvalidRequestError(_not_lent(name, found, agents))
        (model,) = usable
        self.conversation.options = replace(
            self.conversation.options, agent=borrower, model=f"{model.agent}/{model.name}"
        )
        print_err(
            f"The next message goes to {borrower}, and {model.name} of {model.agent} writes the answer: "
            f"{_price(model)}. /model {WITHOUT_MODEL} ends that."
        )

    async def _select_own_model(self, name: str, agents: Mapping[str, AgentOut]) -> None:
        if not name:
            self.conversation.options = replace(self.conversation.options, model=None)
            print_err("The next message goes to the agent's own model.")
            return
        models = await self.conversation.client.models(None)
        agent = self.conversation.name
        named = [model for model in models if name in {model.name, model.model_id}]
        own = [model for model in models if model.agent == agent]
        found = [model for model in named if model.agent == agent] or ([] if own else named)
        if not found:
            raise InvalidRequestError(_no_model(name, agent, own, named))
        if not found[0].enabled:
            raise InvalidRequestError(f"The model {name} of {found[0].agent} is disabled.")
        usable = [model for model in found if _lack(agents[model.agent]) is None]
        if not usable:
            raise InvalidRequestError(
                f"The model {name} cannot be used: {_lack(agents[found[0].agent])}. Set that up and start the program "
                "again."
            )
        found = usable
        self.conversation.options = replace(self.conversation.options, agent=found[0].agent, model=found[0].name)
        print_err(f"The next message goes to {found[0].name} of {found[0].agent}.")

    async def _list_models(self, agent: str) -> None:
        models = await self.conversation.client.models(agent or None)
        rows = [
            (
                model.agent,
                f"{model.name} (default)" if model.is_default else model.name,
                model.provider,
                "unknown" if model.context_window is None else f"{model.context_window:,}",
                "unknown" if model.input_price is None else f"{model.input_price:g}",
                "unknown" if model.output_price is None else f"{model.output_price:g}",
            )
            for model in models
            if model.enabled
        ]
        print_err(aligned(("AGENT", *MODEL_COLUMNS), rows, terminal_width()))

    async def _list_sessions(self, _: str) -> None:
        page = await self.conversation.client.sessions(None)
        rows = [
            (short_id(each.session_id), each.agent, _local(each.last_message_at), each.title)
            for each in page.items[:_SHOWN_SESSIONS]
        ]
        print_err(aligned(("SESSION", "AGENT", "LAST MESSAGE", "TITLE"), rows, terminal_width()))
        if len(page.items) > _SHOWN_SESSIONS or page.next_cursor is not None:
            print_err("There are more: `agentapi-mcp sessions list`.")

    async def _select_session(self, id_: str) -> None:
        session = await find_named(self.conversation.client, id_)
        if session is None:
            raise InvalidRequestError(f"You have no session {id_}; /sessions shows the newest.")
        self.conversation.options = replace(
            self.conversation.options, session_id=session.session_id, agent=None, model=None
        )
        self.conversation.answering = session.agent
        print_err(f"The next message goes on with {short_id(session.session_id)}: {session.title or 'Untitled'}")

    async def _begin_session(self, _: str) -> None:
        self.conversation.options = replace(self.conversation.options, session_id=None)
        self.conversation.lost = None
        if self.conversation.options.agent is None:
            self.conversation.answering = None
        print_err("The next message begins a session.")

    async def _set_system(self, text: str) -> None:
        options = self.conversation.options
        if text:
            prompt = None if text == _NONE else text
            self.conversation.options = replace(
                self.conversation.options, parameters=replace(options.parameters, system_prompt=prompt)
            )
        now = self.conversation.options.parameters.system_prompt
        print_err("There are no instructions." if now is None else f"Instructions for the next messages: {now}")

    async def _show_cost(self, _: str) -> None:
        print_err("\n".join(self.conversation.bills.summary()))

    async def _estimate(self, message: str) -> None:
        print_err((await self.conversation.client.estimate(self.conversation.options, message))["text"])

    async def _show_help(self, _: str) -> None:
        print_err("\n".join(help_lines()))
        print_err(self.conversation.screen.hint)

    async def _export(self, name: str) -> None:
        session_id = self.conversation.options.session_id
        if session_id is None:
            raise InvalidRequestError("There is nothing to export yet.")
        text = await self.conversation.client.transcript(session_id)
        path = await asyncio.to_thread(_write_new, name or f"session-{short_id(session_id)}.md", text)
        print_err(f"Written to {path.resolve()}.")

    async def _copy(self, _: str) -> None:
        reply = self.conversation.reply
        if reply is None or not reply.text:
            raise InvalidRequestError("There is no answer to copy yet.")
        if not self.conversation.screen.edits:
            raise InvalidRequestError("This terminal has no clipboard for programs: /export writes a file.")
        encoded = base64.b64encode(reply.text.encode()).decode()
        if len(encoded) > _LONGEST_COPY:
            raise InvalidRequestError("The answer is longer than terminals take: /export writes a file.")
        send_to_clipboard(encoded)
        print_err("The terminal has the answer for its clipboard (OSC 52); some must be told to take it.")

    async def _retry(self, interrupted: asyncio.Event) -> None:
        conversation = self.conversation
        if conversation.message is None:
            raise InvalidRequestError("Nothing was asked yet.")
        again, told = asked_again(conversation.options, conversation.asked)
        print_err(told)
        await conversation.send(conversation.message, interrupted, again=again)

    async def _edit(self, interrupted: asyncio.Event) -> None:
        conversation = self.conversation
        with conversation.screen.released():
            text, complaint = await asyncio.to_thread(self._edited)
        if complaint is not None:
            print_err(f"agentapi-mcp: {complaint}")
        if conversation.screen.edits:
            conversation.drafted = text
        elif complaint is None and text:
            await conversation.send(text, interrupted)
        if not text and complaint is None:
            print_err("The file was empty: nothing was sent.")

    def _edited(self) -> tuple[str, str | None]:
        """Let the user write in their editor, and return what they wrote, and what went wrong; it is never lost."""
        editor = self._environ.get("VISUAL") or self._environ.get("EDITOR") or _EDITOR
        descriptor, name = tempfile.mkstemp(suffix=".md")
        os.close(descriptor)
        path, complaint, text = Path(name), None, ""
        try:
            done = subprocess.run([*shlex.split(editor), name], env=dict(self._environ), check=False)  # noqa: S603  # the user's editor
            complaint = f"{editor} ended with status {done.returncode}." if done.returncode != 0 else None
        except (OSError, ValueError) as exc:
            complaint = f"{editor} cannot be started ({exc}): set EDITOR to the editor you have."
        try:
            text = path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as exc:
            return "", f"What {editor} wrote cannot be read ({exc}): it is in {name}, and nothing was sent."
        text = text if text.strip() else ""
        if complaint is not None and text and not self.conversation.screen.edits:
            return "", f"{complaint} Nothing was sent: what you wrote is in {name}."
        with suppress(OSError):
            path.unlink()
        return text, complaint and f"{complaint} Nothing was sent."


def _lack(agent: AgentOut) -> str | None:
    """Say why an agent cannot be used; None if it can."""
    if agent.enabled and not agent.missing:
        return None
    return "; ".join(agent.missing) or "it is disabled, and the operator can enable it"


def _line(agent: AgentOut) -> str:
    return f"  {agent.name}: {'; '.join(agent.missing) or agent.description}"


def _write_new(name: str, text: str) -> Path:
    """Write a file that is not there yet.

    Raises:
        InvalidRequestError: it is, or it cannot be written.
    """
    try:
        path = Path(name).expanduser()
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InvalidRequestError(f"{name} is there already: name another file.") from None
    except (OSError, RuntimeError, ValueError) as exc:
        raise InvalidRequestError(f"{name} cannot be written: {exc}.") from exc
    return path


def asked_again(options: ChatOptions, turn: Fields | None) -> tuple[ChatOptions, str]:
    """Return how the last message is asked again, and what that costs; `turn` is what became of it, if that is known.

    One that was interrupted is asked again in its place, one that was answered anew, and one that may have got lost so
    that it is not asked twice.
    """
    joins = replace(options, retry=False, new=False)
    if turn is None:
        return joins, "It is not known what became of the message: it is asked if it was not, and taken up if it was."
    may_go_on = " The one before may go on, and cost." if turn["billing_may_go_on"] else ""
    if turn["status"] == TurnStatus.INTERRUPTED and not turn["asked"]:
        return replace(joins, retry=True), "The agent was not asked yet: the message is asked now."
    if turn["status"] == TurnStatus.INTERRUPTED or turn["end_reason"] == EndReason.ABANDONED:
        return replace(joins, retry=True), f"The agent had been asked: asking again may cost twice.{may_go_on}"
    anew = replace(joins, new=True, idempotency_key=None)
    if turn["status"] == TurnStatus.COMPLETED:
        return anew, "The message is asked anew, which costs again."
    return anew, f"The message is asked anew; what the answer that was {turn['status']} cost stays.{may_go_on}"


def _refuse_misspelt(line: str, word: str) -> None:
    """Refuse what looks like a command that is misspelt; all else that begins with a slash is a message."""
    typed = line.rstrip().casefold()
    others = [name for name in _MEANT if name.startswith("/")] if typed == word.casefold() else []
    near = [typed] if typed in _MEANT else get_close_matches(word.casefold(), [*COMMANDS, *others], n=1, cutoff=0.75)
    if near and "\n" not in line:
        meant = _MEANT.get(near[0], near[0])
        raise InvalidRequestError(
            f"There is no command {word.strip()}; did you mean {meant}? With a space before it, it is a message."
        )


def _local(time: str | None) -> str:
    return "" if time is None else local_time(datetime.fromisoformat(time))


def _price(model: ModelOut) -> str:
    if model.input_price is None or model.output_price is None:
        return "its price is unknown"
    return f"${model.input_price:g} in and ${model.output_price:g} out for a million tokens"


def _not_lent(name: str, found: Sequence[ModelOut], agents: Mapping[str, AgentOut]) -> str:
    if not found:
        return f"No agent has a model {name}; /models lists all."
    if not found[0].enabled:
        return f"The model {name} of {found[0].agent} is disabled."
    return f"The model {name} cannot be used: {_lack(agents[found[0].agent])}. Set that up and start the program again."


def _no_model(name: str, agent: str, own: list[ModelOut], named: list[ModelOut]) -> str:
    if named:
        return f"The model {name} belongs to {listed([each.agent for each in named])}: /agent selects it first."
    known = [model.name for model in own if model.enabled]
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    has = f"did you mean {' or '.join(near)}?" if near else f"it has: {listed(known)}."
    return f"{agent} has no model {name}; {has if known else '/models lists all.'}"
