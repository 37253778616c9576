"""Classify what a question asks of the live state, by keywords."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from agentapi_mcp.backends.guide.words import STOP_WORDS, terms, words

_FAILING = set(
    words(
        "fail failed failing failure error errors wrong broken break broke crash crashed interrupted cancelled "
        "canceled fault aborted stopped refused"
    )
)
_RECENT = {"last", "latest", "previous", "recent", "earlier", "newest"}
_TURN = {"turn", "turns", "message", "question", "request", "call", "answer", "chat", "conversation", "reply"}
_COST = set(
    words("spending cost costs costed bill bills spend spent charge charged paid pay price money expensive invoice")
)
_SESSIONS = {"session", "sessions", "conversation", "conversations", "chat", "chats"}
_OF_A_LIST = _RECENT | {"list", "show", "open", "current", "newest"}
# Whose costs only an administrator sees.
_OTHERS = set(words("each everybody everyone member members team user users admin organisation organization company"))
# Of the stop words, those that ask something else.
_NOT_A_LIST = {
    "how",
    "where",
    "can",
    "who",
    "why",
    "does",
    "will",
    "should",
    "go",
    "goes",
    "happen",
    "happens",
    "happened",
}
_AGENT = {"agent", "agents"}
_MODEL = {"model", "models", "llms"}
_ASKING = {"which", "what", "list", "show", "any", "who", "are", "is"}
_STATE = set(
    words(
        "work works working available ready healthy unhealthy up down status online offline reachable missing broken "
        "now ok okay alive configured exist exists there use choose ask have"
    )
)
_NOW = {"now", "currently", "today", "moment"}
_HOW_TO = set(
    words(
        "add create make write delete remove change configure install declare define edit switch set setup cancel "
        "rename export connect stop update refresh sync"
    )
)
_POINTING = {"it", "that", "this", "they", "them", "those", "these", "one", "ones", "there", "also"}
_GREETING = set(
    words(
        "hello hi hey hiya howdy greetings morning afternoon evening good thanks thank you cheers test testing ping "
        "hola salut bonjour hallo ciao moin servus there guide ok okay yes no help"
    )
)
_ABOUT = (
    r"\b(who|what) are you\b|\bwhat can (you|i) (do|ask|help)|\bwhat do you (do|know)\b|\bwhat is (the|this) guide\b"
    r"|\bare you (an? |really )*(ai|llm|model|language model|bot|robot|human|person|chatgpt|claude|gpt)\b"
    r"|\b(can|could) you help\b|^\W*help\W*$|\bwhat is this\W*$"
)
_DEFINITION = re.compile(r"\bwhat(?:'s| is| are| does)\b(?: an?| the)? *[\w`']+ *(?:mean)?\W*$")
# "How do I limit who may use a model?" asks for no list of them.
_HOW_DO = re.compile(r"\bhow (?:do|does|can|could|should|would|will|may)\b")
_MORE = {"more", "further", "else", "other", "another", "next", "on"}
# "The wrong language" is said of an answer that came.
_WRONG_ONE = re.compile(r"\b(?:a|an|the) wrong\b")
_FEW_WORDS = 4


class Intent(StrEnum):
    """The kind of live state asked for."""

    GREETING = "greeting"
    FAILURE = "failure"
    COST = "cost"
    AGENTS = "agents"
    MODELS = "models"
    NAMED = "named"
    SESSIONS = "sessions"


_SHORTEST_NAME = 2
_ORDINARY = frozenset(
    {
        "all",
        "any",
        "chat",
        "claude",
        "client",
        "code",
        "data",
        "default",
        "fast",
        "free",
        "guide",
        "help",
        "house",
        "key",
        "large",
        "list",
        "local",
        "main",
        "mcp",
        "model",
        "my",
        "new",
        "one",
        "openrouter",
        "other",
        "own",
        "redis",
        "router",
        "server",
        "session",
        "small",
        "test",
        "that",
        "the",
        "this",
        "tool",
        "work",
    }
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, with the names of agents and models that it mentions."""

    text: str
    agents: tuple[str, ...]
    models: tuple[str, ...]


def read_question(text: str, agents: Iterable[str], models: Iterable[str]) -> Question:
    """Find agent and model names in a question; an ordinary word counts as a name only if the question says so."""
    lowered = text.lower()
    return Question(
        text=text,
        agents=tuple(name for name in agents if _mentions(lowered, name) and _is_meant(lowered, name, "agent")),
        models=tuple(
            dict.fromkeys(name for name in models if _mentions(lowered, name) and _is_meant(lowered, name, "model"))
        ),
    )


def _is_meant(lowered: str, name: str, kind: str) -> bool:
    word = name.lower()
    if len(word) > _SHORTEST_NAME and word not in _ORDINARY:
        return True
    escaped = re.escape(word)
    marked = rf"[`'\"“]{escaped}[`'\"”]|\b{kind}s? {escaped}\b|\b{escaped} {kind}\b|^is {escaped} \w+\W*$"
    return re.search(marked, lowered) is not None


def _mentions(lowered: str, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name.lower())}(?![\w-]|\.\w)", lowered) is not None


def find_intent(question: Question) -> Intent | None:
    """Return the live answer asked for, if any."""
    found, lowered = set(words(question.text)), question.text.lower()
    wanted = (
        (Intent.GREETING, _is_greeting(lowered, found)),
        (Intent.FAILURE, _asks_of_failure(lowered, found)),
        (Intent.COST, _asks_of_cost(found) and not asks_how(question.text)),
        (Intent.NAMED, bool(question.agents or question.models)),
        (Intent.SESSIONS, _asks_of_sessions(found)),
    )
    intent = next((intent for intent, is_wanted in wanted if is_wanted), None)
    if intent is not None or _DEFINITION.search(lowered) or _HOW_DO.search(lowered) or found & _HOW_TO:
        return intent
    return _asks_of_catalogue(found)


def asks_how(text: str) -> bool:
    """Return whether a question asks how to do something, rather than for the current state."""
    found = set(words(text))
    if found & {"much", "many", "long", "often"}:
        return False
    return bool({"how", *_HOW_TO} & found) or {"can", "i"} <= found


def wants_more(text: str) -> bool:
    """Return whether a question only asks to continue."""
    return bool(_MORE & set(words(text)))


def is_follow_up(text: str) -> bool:
    """Return whether a question refers to the previous one: it is short, and has a pronoun or few terms."""
    found = words(text)
    meaning = terms(text)
    points = bool(_POINTING & set(found)) or found[:1] in (["and"], ["but"], ["so"], ["why"])
    return not meaning or (len(meaning) <= _FEW_WORDS and points)


def _is_greeting(lowered: str, found: set[str]) -> bool:
    return not found or found <= _GREETING or re.search(_ABOUT, lowered) is not None


def _asks_of_failure(lowered: str, found: set[str]) -> bool:
    if "went wrong" in lowered or "what happened" in lowered or "goes wrong with my" in lowered:
        return not found & {"if"}
    failing = _FAILING - {"wrong"} if _WRONG_ONE.search(lowered) else _FAILING
    fails = bool(found & failing) or {"not", "work"} <= found or ({"didn't", "work"} <= found)
    mine = (
        bool(found & _RECENT)
        or ("my" in found and bool(found & _TURN))
        or ("why" in found and bool(found & {"it", "that"}))
    )
    return fails and mine and not found & _HOW_TO


def _asks_of_cost(found: set[str]) -> bool:
    mine = found & (_RECENT | {"my", "far", "total", "spent", "today", "yesterday", "altogether", "did"})
    mine = mine or (found & {"this", "past"} and found & {"week", "month", "year"})
    others = _HOW_TO | _OTHERS | {"unknown", "null", "why", "where"}
    return bool(found & _COST) and bool(mine) and not found & others


def _asks_of_sessions(found: set[str]) -> bool:
    """Return whether the words ask for one's own sessions, and nothing else of them."""
    rest = {word for word in found if word not in STOP_WORDS and not word.isdigit()} | found & _NOT_A_LIST
    return bool(found & _SESSIONS) and bool(found & {"my", "i"}) and rest <= _SESSIONS | _OF_A_LIST


def _asks_of_catalogue(found: set[str]) -> Intent | None:
    if not found & _ASKING:
        return None
    if found & _MODEL and found & (_STATE | {"list", "show"}):
        return Intent.MODELS
    if found & _AGENT and found & (_STATE | {"list", "show"}):
        return Intent.AGENTS
    rest = {word for word in found if word not in STOP_WORDS} - {"right", "currently", "moment", "everything"}
    about_now = bool(found & (_NOW | {"everything", "all"}))
    return Intent.AGENTS if about_now and found & _STATE and rest <= _STATE else None
