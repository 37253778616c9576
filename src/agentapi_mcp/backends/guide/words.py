"""Tokenization and stemming of questions and pages."""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

_WORD = re.compile(r"[^\W_]+(?:[._'\u2019-][^\W_]+)*", re.UNICODE)
_PARTS = re.compile(r"[^\W_]+", re.UNICODE)
_DOUBLED = re.compile(r"([bcdfghjklmnpqrtvwz])\1$")
_VOWEL = re.compile(r"[aeiouy]")
_BRITISH = re.compile(r"is(e|ed|ing|ation)$")
_SHORT = 3
_SHORTEST_MISSPELT = 5


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
    wont doesnt dont isnt cant didnt im ive whats wheres hows please someway pls plz
    today yesterday tomorrow tonight currently recently
    """
)

# Of several words that are one term, the first is how the term is written in the index.
_PHRASES = {
    "backup": ("back up", "backed up", "backing up", "back-up"),
    "login": (
        "log in",
        "logs in",
        "logging in",
        "sign in",
        "signs in",
        "signed in",
        "sign-in",
        "sign-ins",
        "signing in",
    ),
    "logout": ("log out", "logs out", "logged out", "logging out", "log off", "sign out", "signed out", "signing out"),
    "changelog": ("change log", "release notes"),
    "setup": ("set up", "setting up"),
    "timeout": ("time out", "times out", "timed out", "timing out", "time-out"),
    "remove": ("get rid of", "take out", "takes out"),
    "reset": ("start over", "from scratch", "begin anew", "start anew", "start fresh"),
    "continue": ("left off", "carry on", "go on with", "take up"),
    "telemetry": ("phone home", "phones home", "call home"),
    "vscode": ("vs code", "vs-code", "visual studio code"),
    "chatgpt": ("chat gpt",),
    "openai": ("open ai",),
    "screenreader": ("screen reader", "screen-reader"),
    "lmstudio": ("lm studio", "lm-studio"),
    "huggingface": ("hugging face",),
    "organization": ("org", "orgs"),
    "colour": ("color", "colors"),
}

_TERM_OF = {phrase: term for term, phrases in _PHRASES.items() for phrase in phrases}
_SPACE = re.compile(r"\s+")

# Synonyms in this domain; a synonym scores less than the word itself.
_SYNONYM_GROUPS = (
    "key credential secret api-key apikey",
    "password credential token passphrase",
    "env environment variable var envvar",
    "cost price bill money spend spent charge pay paid expensive cheap cheapest dollar usd euro invoice fee",
    "budget cap limit",
    "cancel stop abort kill end quit interrupt halt",
    "openrouter droid",
    "ollama lmstudio vllm llama local offline llama.cpp internet",
    "add register enable declare create",
    "configure configuration config setup setting install",
    "connect hook attach link plug",
    "install pip uvx download",
    "disable off deactivate hide",
    "mac macos osx apple",
    "delete remove erase forget wipe drop clear reset",
    "uninstall remove",
    "export save download dump archive",
    "backup dump copy snapshot",
    "restore recover undo rollback",
    "rename title name",
    "session conversation chat thread history",
    "transcript history conversation",
    "trail log audit",
    "timeout hang hung stuck freeze silent",
    "license licence mit",
    "remember memory recall",
    "slow fast faster fastest speed latency long forever performance",
    "long wait waiting minute",
    "fail failure error broken crash problem trouble fault unhealthy fix debug",
    "wrong invalid refuse bad reject incorrect",
    "retry again twice duplicate idempotency idempotent repeat resend double regenerate",
    "vscode copilot",
    "claude anthropic",
    "gpt chatgpt openai",
    "vertex gemini google ccrouter",
    "restart crash kill reboot died",
    "storage stored keep kept save saved data disk file directory folder",
    "postgres postgresql database db sql rds",
    "ram memory",
    "security secure safe private privacy safety gdpr",
    "http network remote web rest lan expose reachable",
    "port address listen bind",
    "https tls ssl certificate cert",
    "docker podman container compose kubernetes k8s",
    "dashboard gui ui website webapp frontend browser",
    "image picture photo screenshot",
    "audio voice speech",
    "file attachment pdf document attach",
    "command cli terminal shell console",
    "model llm ai",
    "bot robot ai script",
    "client ide editor",
    "start begin first run launch quickstart",
    "health healthy status alive check",
    "question ask message prompt",
    "answer reply response",
    "migrate migration schema",
    "upgrade update version release",
    "resume continue reopen",
    "list show overview",
    "log logging stderr verbose",
    "free nothing zero",
    "limit rate throttle quota 429",
    "restrict forbid allow deny block ban",
    "machine computer laptop pc",
    "calculate compute determine",
    "colleague collegue coworker teammate people user team someone somebody member everybody everyone",
    "organization company team firm corporate",
    "boss admin administrator manager owner",
    "find found locate search",
    "switch change",
    "tool function",
    "login oauth sso oidc authentication account",
    "auth 401 unauthorized unauthorised",
    "credit 402 payment balance",
    "library sdk package client",
    "plugin extension backend adapter",
    "lose lost loss loose",
    "blind screenreader accessibility",
    "private own personal",
)


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """Strip English suffixes; a stem need not be a word."""
    if len(word) <= _SHORT or not word.isalpha():
        return word
    word = _BRITISH.sub(r"iz\1", _singular(word))
    for ending in ("ations", "ation", "ing", "ed", "ly", "ment"):
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


@cache
def _phrase() -> re.Pattern[str]:
    # Compiled with the first question: it is slow, and most commands ask none.
    return re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(map(re.escape, _TERM_OF), key=len, reverse=True))})(?![\w-])")


def terms(text: str) -> list[str]:
    """List the stems without stop words, in order."""
    lowered = _SPACE.sub(" ", text.lower().replace("\u2019", "'"))
    joined = _phrase().sub(lambda match: _TERM_OF[match.group()], lowered)
    return [stem(word) for word in words(joined) if word not in STOP_WORDS and len(word) > 1]


class Vocabulary:
    """Finds the known word that a misspelt one means: with one letter more, less, changed or swapped."""

    def __init__(self, known: Iterable[str]) -> None:
        self._by_shortened: dict[str, list[str]] = {}
        for word in sorted(known):
            if len(word) >= _SHORTEST_MISSPELT and word.isalpha():
                for shortened in _shortened(word):
                    self._by_shortened.setdefault(shortened, []).append(word)

    def nearest(self, word: str) -> str | None:
        """Return the one known word that is near; None if there is none, or the word is short."""
        if len(word) < _SHORTEST_MISSPELT:
            return None
        near = {each for shortened in _shortened(word) for each in self._by_shortened.get(shortened, ())}
        # The first letter is rarely wrong, and guards against a word that only sounds alike.
        near = {each for each in near if each[0] == word[0]}
        return min(near, key=lambda each: (abs(len(each) - len(word)), each), default=None)


def _shortened(word: str) -> Iterator[str]:
    """Yield a word, and what is left without one of its letters: two words one error apart have one in common."""
    yield word
    yield from (word[:at] + word[at + 1 :] for at in range(len(word)))
