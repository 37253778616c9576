"""Tokenization and stemming of questions and pages."""

import re
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:[._'\u2019-][^\W_]+)*", re.UNICODE)
_PARTS = re.compile(r"[^\W_]+", re.UNICODE)
_DOUBLED = re.compile(r"([bcdfghjklmnpqrtvwz])\1$")
_VOWEL = re.compile(r"[aeiouy]")
_SHORT = 3


def _set_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP_WORDS = _set_of(
    """
    a about actually all also am an and any anyone anything are aren as at be because been before being but by can
    can't cannot could d did didn didn't do does doesn doesn't doing don don't done either else even ever every
    explain for from get gets getting give given go goes going got had happen happened happens has have having
    hello here hey hi how how's however i i'd i'll i'm if in into is isn isn't it it's its itself just kind let
    like ll lot m make makes many may maybe me mean means might mine more most much must my need needed needs
    no not now of ok okay on one only or other our out over own please put re really right s say see server
    set shall should show so some somehow something still such sure t take tell thank thanks that the their them
    then there these they thing things this those through to too try trying under up us use used using ve very
    want was way we well were what what's whats when where whether which while who whom whose why will with within
    without won would yet you your yours
    made new where's who's when's why's won't wouldn't couldn't haven't hasn't aren't that's there's i've
    """
)

# Synonyms in this domain; a synonym scores less than the word itself.
_SYNONYM_GROUPS = (
    "key credential secret password api-key apikey env",
    "token usage",
    "cost price bill money spend spent charge pay paid expensive cheap dollar usd invoice fee",
    "cancel stop abort kill end quit interrupt halt",
    "openrouter droid",
    "ollama lmstudio vllm llama local offline llama.cpp",
    "add connect register configure configuration config setup install enable declare",
    "disable off deactivate hide",
    "mac macos osx apple",
    "delete rid remove erase forget wipe drop",
    "export save download dump backup",
    "rename title name",
    "session conversation chat thread history",
    "transcript history log conversation",
    "timeout time-out timed slow hang hung stuck long wait waiting patience freeze faster fast speed",
    "fail failure error broken wrong crash problem trouble fault unhealthy fix",
    "retry again twice duplicate idempotency idempotent repeat resend double",
    "vscode vs-code copilot code",
    "claude anthropic",
    "vertex gemini google ccrouter",
    "restart crash kill reboot died",
    "storage stored keep kept database postgres disk file data directory folder",
    "security secure safe private privacy safety",
    "http sse network remote web rest expose",
    "command cli terminal shell",
    "model llm",
    "cursor client ide editor",
    "start begin first install run launch quickstart",
    "health healthy status alive check",
    "question ask message prompt",
    "answer reply response",
    "migrate migration schema upgrade update",
    "resume continue reopen",
    "list show overview",
    "log logging stderr debug verbose",
    "uninstall remove",
    "free nothing zero",
    "limit rate throttle quota 429",
    "machine computer laptop pc",
    "calculate compute determine",
    "colleague coworker other people user team someone",
    "find found locate",
    "switch change",
    "tool function",
    "auth 401 unauthorized unauthorised",
    "credit 402 payment balance",
)


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """Strip English suffixes; a stem need not be a word."""
    if len(word) <= _SHORT or not word.isalpha():
        return word
    word = _singular(word)
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= _SHORT and _VOWEL.search(rest):
            word = rest
            break
    word = word.removesuffix("e") if len(word) > _SHORT else word
    return _DOUBLED.sub(r"\1", word) if len(word) > _SHORT else word


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _synonyms() -> dict[str, frozenset[str]]:
    table: dict[str, set[str]] = {}
    for group in _SYNONYM_GROUPS:
        stems = {stem(word) for word in group.split()}
        for each in stems:
            table.setdefault(each, set()).update(stems - {each})
    return {word: frozenset(others) for word, others in table.items()}


SYNONYMS = _synonyms()


def words(text: str) -> list[str]:
    """List the words in order, in lower case; a compound (`next-step`, `get_turn`) is followed by its parts."""
    found: list[str] = []
    for match in _WORD.finditer(text.lower().replace("\u2019", "'")):
        word = match.group()
        found.append(word.removesuffix("'s"))
        if any(joint in word for joint in "-._"):
            found.extend(_PARTS.findall(word))
    return found


def terms(text: str) -> list[str]:
    """List the stems without stop words, in order."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS and len(word) > 1]
