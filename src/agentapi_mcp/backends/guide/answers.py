"""Compose the guide's answers: live state if asked for, the best section, and suggestions."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agentapi_mcp.backends.guide.index import Index, Match
from agentapi_mcp.backends.guide.intents import (
    Intent,
    Question,
    asks_how,
    find_intent,
    is_follow_up,
    read_question,
    wants_more,
)
from agentapi_mcp.backends.guide.pages import Section, trimmed
from agentapi_mcp.backends.guide.periods import find_period, this_month
from agentapi_mcp.backends.guide.ports import GuideHost
from agentapi_mcp.backends.guide.state import (
    LiveState,
    describe_costs,
    describe_named,
    describe_parts,
    explain_failure,
    last_failure,
    list_agents,
    list_models,
    list_sessions,
)
from agentapi_mcp.backends.guide.words import terms
from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.core.backends.models import BackendTurn, HistoryMessage, MessageRole

_READ = 2_000  # characters read from either end of a long message
_ROOM = 1_800  # characters quoted of a section
_SECOND_ROOM = 600
_RECENT_TURNS = 50
_SESSIONS = 10
_FITS = 0.48  # share of a question's weight that a section must cover to count as its answer
_SURE = 0.9
_NEAR = 0.1  # share that is at least worth suggesting
_READABLE = 0.2  # share that is worth being read by a model
_PASSAGES = 6
_CLOSE_SECOND = 0.85
_SUGGESTIONS = 3
_NEXT = "You could ask next:"
_SUGGESTED = re.compile(r"^([1-3])\. (.+)$", re.MULTILINE)
_SOURCE = re.compile(r"\((docs/[^\s)]+)\)")
_FIRST_QUESTIONS = ("How do I add OpenRouter?", "How do I use a local model?", "How do I connect Claude Code?")
_PAGES = {  # related sections after an answer from the live state
    Intent.COST: "cost.md",
    Intent.AGENTS: "getting-started.md",
    Intent.MODELS: "how-to/add-openrouter.md",
    Intent.NAMED: "troubleshooting.md",
    Intent.SESSIONS: "sessions.md",
}

_GREETING = (
    "I am the guide of this server. I am not a language model: I look up your words in the documentation and read the "
    "server's live state. That needs no key and no network, and costs nothing. I know English words only, and I "
    "cannot write, translate or reason; for that, ask an agent that is a model."
)
_NOT_FOUND = (
    "I found nothing in the documentation that answers this. I am not a language model: I only look up words, in "
    "English, in this server's documentation, so other words may help. For anything else, ask an agent that is a model."
)
_LIVE: dict[Intent, Callable[[LiveState, Question], str]] = {
    Intent.FAILURE: lambda state, _: explain_failure(state),
    Intent.COST: lambda state, _: describe_costs(state),
    Intent.AGENTS: lambda state, _: list_agents(state),
    Intent.MODELS: lambda state, question: list_models(state, question.agents),
    Intent.SESSIONS: lambda state, _: list_sessions(state),
    Intent.NAMED: lambda state, question: describe_named(state, question.agents, question.models),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer without a model, and the question with the passages that a model may write from.

    There are none where the answer comes from the live state, is a plain no, or is that nothing was found.
    """

    text: str
    question: str = ""
    passages: tuple[Section, ...] = ()


class Answers:
    """Answers questions from the index and the live state."""

    def __init__(self, index: Index, host: GuideHost) -> None:
        self._index = index
        self._host = host
        self._sources = {f"docs/{each.page}" for each in index.sections} | {each.source for each in index.sections}

    async def draft(self, turn: BackendTurn) -> Draft:
        """Write the whole answer as it is without a model."""
        state = await self._state(turn)
        text = _chosen(_readable_part(turn.message), turn.history)
        names = tuple(agent.name for agent in state.agents)
        question = read_question(text, names, tuple(each.name for agent in state.agents for each in agent.models))
        state = await self._with_more(find_intent(question), state, turn, text)
        found = self._search(text, turn.history)
        shown, parts = self._parts(question, state, found)
        suggestions = self._suggestions(text, found, shown)
        if suggestions:
            numbered = "\n".join(f"{number}. {ask}" for number, ask in enumerate(suggestions, 1))
            parts.append(f"{_NEXT}\n\n{numbered}")
        is_from_pages = find_intent(question) is None and not (shown and _says_no(shown[0]))
        return Draft("\n\n".join(parts), text, _passages(found) if is_from_pages else ())

    def knows(self, source: str) -> bool:
        """Return whether there is such a section, or such a page."""
        return source in self._sources

    async def _state(self, turn: BackendTurn) -> LiveState:
        view, clock = self._host.view, self._host.clock
        try:
            agents = await view.agents(turn.principal)
            turns = await view.recent_turns(turn.principal, _RECENT_TURNS)
        except AgentApiError as error:
            return LiveState((), (), clock.now(), fault=f"I could not read the server's live state just now. {error}")
        return LiveState(agents, tuple(each for each in turns if each.id != turn.turn_id), clock.now())

    async def _with_more(self, intent: Intent | None, state: LiveState, turn: BackendTurn, text: str) -> LiveState:
        """Add what only this intent needs."""
        view, principal = self._host.view, turn.principal
        try:
            match intent:
                case Intent.AGENTS:
                    return replace(state, parts=await view.parts(principal))
                case Intent.COST:
                    asked = find_period(text, state.now)
                    period = asked or this_month(state.now)
                    spent = await view.spent(principal, period.since, period.until)
                    return replace(state, period=period, spent=spent, asks_for_period=asked is not None)
                case Intent.SESSIONS:
                    return replace(state, sessions=await view.sessions(principal, _SESSIONS))
                case _:
                    return state
        except AgentApiError:  # who may not see it asked for the agents, too, and was told
            return state

    def _search(self, text: str, history: Sequence[HistoryMessage]) -> list[Match]:
        context = _last_message(history, MessageRole.USER) if is_follow_up(text) else ""
        if terms(text):
            return self._index.search(text, context)
        if not wants_more(text):
            return self._index.search(text)  # which may be a declared question, such as "who did what?"
        # "Tell me more" has no terms of its own: continue with sections not shown yet.
        shown = set(_SOURCE.findall(_last_message(history, MessageRole.ASSISTANT)))
        return [match for match in self._index.search(context) if match.section.source not in shown]

    def _parts(
        self, question: Question, state: LiveState, found: Sequence[Match]
    ) -> tuple[tuple[Section, ...], list[str]]:
        intent = find_intent(question)
        if intent is Intent.GREETING:
            return (), [_GREETING, state.fault or list_agents(state)]
        sections = _fitting(found)
        # "Is there an agent card?" asks for no agent.
        is_no = bool(sections) and _says_no(sections[0]) and found[0].coverage >= _SURE
        if intent is None or is_no:
            return (sections, _quoted(sections)) if sections else ((), self._nothing(found))
        parts = [state.fault or _LIVE[intent](state, question), *([describe_parts(state)] if state.parts else [])]
        if intent is Intent.FAILURE:
            sections = self._about_fault(state) or sections
        elif not (intent is Intent.NAMED and asks_how(question.text)):
            page = tuple(each for each in self._index.sections if each.page == _PAGES[intent])[:1]
            return page, [*parts, *(f"More about this: {each.source}" for each in page)]
        return sections[:1], [*parts, *(_quoted(sections[:1]) if sections else [])]

    def _about_fault(self, state: LiveState) -> tuple[Section, ...]:
        turn = last_failure(state.turns)
        if turn is None:
            return ()
        word = turn.error.fault.value if turn.error and turn.error.fault else turn.status.value
        section = self._index.find(word)
        return (section,) if section else ()

    def _nothing(self, found: Sequence[Match]) -> list[str]:
        near = [f"- {match.section.heading} ({match.section.source})" for match in found if match.coverage >= _NEAR][:3]
        if near:
            return [_NOT_FOUND, "The nearest I have:\n\n" + "\n".join(near)]
        pages = {each.title: each.page for each in self._index.sections if not each.page.startswith("design/")}
        topics = "\n".join(f"- {title} (docs/{page})" for title, page in pages.items())
        return [_NOT_FOUND, f"What I can tell you about:\n\n{topics}"]

    def _suggestions(self, text: str, found: Sequence[Match], shown: Sequence[Section]) -> list[str]:
        near = [match.section for match in found if match.coverage >= _FITS] if shown else []
        near += [section for section in self._index.sections if shown and section.page == shown[0].page]
        asks = [ask for section in near if section not in shown for ask in _first_ask(section)]
        question_terms = set(terms(text))
        wanted = dict.fromkeys([*asks, *_FIRST_QUESTIONS])
        return [ask for ask in wanted if set(terms(ask)) != question_terms][:_SUGGESTIONS]


def _first_ask(section: Section) -> list[str]:
    return [ask[0].upper() + ask[1:] for ask in section.asks if ask.endswith("?")][:1]


def _readable_part(message: str) -> str:
    """Limit a message to its two ends, where the question is expected."""
    return message if len(message) <= 2 * _READ else f"{message[:_READ]}\n{message[-_READ:]}"


def _chosen(text: str, history: Sequence[HistoryMessage]) -> str:
    """Replace a bare number by the suggested question of that number."""
    number = text.strip().rstrip(".")
    _, _, suggested = _last_message(history, MessageRole.ASSISTANT).rpartition(_NEXT)
    return dict(_SUGGESTED.findall(suggested)).get(number, text)


def _last_message(history: Sequence[HistoryMessage], role: MessageRole) -> str:
    message = next((message.text for message in reversed(history) if message.role is role), "")
    return _readable_part(message)


def _passages(found: Sequence[Match]) -> tuple[Section, ...]:
    """Return what a model reads: also what is only near, since it knows more words than the search."""
    return tuple(match.section for match in found if match.coverage >= _READABLE)[:_PASSAGES]


def _fitting(found: Sequence[Match]) -> tuple[Section, ...]:
    """Return the best matching section, and a second one that is nearly as good.

    Where the best one does not fit, none does: what ranks below it has more of the words, and less to do with them. The
    second is never a plain no, which would read as if it took back the first.
    """
    fits = [match for match in found if match.coverage >= _FITS] if found and found[0].coverage >= _FITS else []
    second = [each for each in fits[1:2] if each.score >= _CLOSE_SECOND * fits[0].score and not _says_no(each.section)]
    return tuple(match.section for match in (*fits[:1], *second))


def _quoted(sections: Sequence[Section]) -> list[str]:
    if _says_no(sections[0]):  # the answer first, and nothing that only sounds alike after it
        return [f"{trimmed(sections[0], _ROOM)}\n\n**{sections[0].heading}** ({sections[0].source})"]
    rooms = (_ROOM, _SECOND_ROOM)
    return [
        f"**{section.heading}** ({section.source})\n\n{trimmed(section, room)}"
        for section, room in zip(sections, rooms, strict=False)
    ]


def _says_no(section: Section) -> bool:
    return section.body.startswith(("No. ", "Not yet. "))
