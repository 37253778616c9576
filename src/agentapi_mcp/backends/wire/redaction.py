"""Redact what providers say: secrets in answers; secrets, paths and control characters in errors."""

import re
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from agentapi_mcp.base.errors import BackendError
from agentapi_mcp.base.text import one_line, printable
from agentapi_mcp.core.backends.events import BackendEvent, Finished, SignOfLife, TextDelta, ThoughtDelta, ToolActivity

LONGEST_LINE = 300
_LONGEST_READ = 20 * LONGEST_LINE
# Hiding a shorter one would garble every message.
_SHORTEST_SECRET = 4
HIDDEN = "[hidden]"
# In an answer, shorter ones are words: "ollama" or "not-needed", which local servers accept as keys.
_SHORTEST_IN_ANSWERS, _SHORTEST_WITHOUT_DIGIT = 8, 16
# An answer that breaks off within a secret may show this much of it: a shorter beginning is that of many words.
_LONGEST_BEGINNING = 7
_PARTS = re.compile(r"[\s;,=]+")  # of the value of a header: scheme, parameters, cookies
# These are compiled with the first error, as most programs meet none.
_KEY_LIKE = r"""(?ix)
    \b (?: sk | pk | rk | key | gsk | xai | hf | ghp | r8 ) [-_]               # vendors' API keys, also half masked
        (?= [\w.-]* [\d*] | [\w.-]{24} ) [\w*.-]{6,}                         # and no words such as key_limit_exceeded
    | \b AIza [\w-]{10,}
    | \b ya29\. [\w.-]{4,}
    | \b eyJ [\w-]{10,} (?: \. [\w-]* )*                                       # JSON web tokens
    | \b (?: bearer | basic ) \s+ (?= [\w.~+/-]* [\d*=] | [\w.~+/-]{24} | (?-i: \w* [a-z] \w* [A-Z] ) ) [\w.~+/=*-]{4,}
    | (?<= [?&] ) (?: key | api_key | token | access_token ) = [^\s&]+
    """
_PATH = re.compile(r"(?<![\w/:.])(?:file:/*|~|[A-Za-z]:)?[/\\]{1,2}(?:[\w.@~+-]+[/\\])+[\w.@~+-]+")
# A path of an API, such as /v1/models, has none of these: the first directory of a file system, or the end of a file.
_ROOT = (
    r"home|root|srv|var|usr|opt|etc|tmp|mnt|media|proc|sys|dev|run|boot|s?bin|lib(?:32|64)?|nix|snap|app|data|work"
    r"|workspace|code|build|Users|Library|Applications|System|Volumes|private"
)
_OUR_ROOTS = frozenset(Path(place).parts[1] for place in (__file__, sys.prefix))
_A_FILE = (
    r".+\.(?:[cm]?[jt]sx?|py[cdw]?|go|rs|rb|java|php|c|cc|cpp|h|so|dll|exe|sh|log|json[lc]?|toml|ya?ml|ini|env|conf|cfg"
    r"|pem|key|crt|db|sqlite3?|gguf|bin|txt|md|html?)"
)
_STACK = re.compile(r"\s*(?:Traceback\b|File \"|at (?:async |new )?\S+ ?\(|at (?:async )?\S*[/\\]\S+:\d)")


class Redactor:
    """Redacts messages with the secrets of one backend."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        given = tuple(secrets)
        known = {secret for secret in given if len(secret) >= _SHORTEST_SECRET}
        known |= {part for secret in given for part in credentials_in(secret)}
        # Longest first: a secret may contain another one.
        self._secrets = sorted(known, key=len, reverse=True)
        self._answers = SecretsInAnswers(self._secrets)

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that is hidden in errors, longest first."""
        return tuple(self._secrets)

    def also(self, secret: str) -> "Redactor":
        """Return a redactor with an additional secret."""
        if secret in self._secrets:  # with its parts
            return self
        return Redactor((*self._secrets, secret))

    def line(self, message: str) -> str:
        """Return a message as one redacted line, up to a stack trace; may be empty."""
        # Cut first, so that the patterns do not run over a whole error page.
        text = message[:_LONGEST_READ]
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        if len(message) > _LONGEST_READ and self._secrets:  # it may end within a secret
            text = text[: -len(self._secrets[0])]
        lines = takewhile(lambda line: not _STACK.match(line), text.splitlines())
        return one_line(" ".join(map(_without_keys_and_paths, lines)), LONGEST_LINE)

    async def events(self, events: AsyncGenerator[BackendEvent]) -> AsyncGenerator[BackendEvent]:
        """Yield the events of a run without the secrets, also where one comes in pieces."""
        text, thought = StreamRedactor(self._answers), StreamRedactor(self._answers)
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished):
                        for rest in _rest(text, thought):
                            yield rest
                    yield self._without_secrets(event, text, thought)
            for rest in _rest(text, thought):
                yield rest
        except BackendError:
            # What was said before a failure is kept.
            for rest in _rest(text, thought):
                yield rest
            raise

    def _without_secrets(self, event: BackendEvent, text: "StreamRedactor", thought: "StreamRedactor") -> BackendEvent:
        match event:
            case TextDelta(piece):
                shown = text.feed(piece)
                return event if shown == piece else TextDelta(shown) if shown else SignOfLife()
            case ThoughtDelta(piece):
                shown = thought.feed(piece)
                return event if shown == piece else ThoughtDelta(shown) if shown else SignOfLife()
            case ToolActivity(name, state, detail):
                return ToolActivity(self._hide(name), state, self._hide(detail))
            case Finished():
                # Its state is for the backend alone.
                texts = (event.model, event.provider, event.provider_request_id, event.warning)
                hidden = tuple(text and self._hide(text) for text in texts)
                if hidden == texts:
                    return event
                model, provider, request_id, warning = hidden
                return replace(event, model=model, provider=provider, provider_request_id=request_id, warning=warning)
            case _:
                return event

    def _hide(self, whole: str) -> str:
        redactor = StreamRedactor(self._answers)
        return redactor.feed(whole) + redactor.flush()


class SecretsInAnswers:
    """Those of some secrets that are hidden in answers, made ready to be looked for."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first: of two that begin alike, the longer is hidden.
        self.secrets = sorted({secret for secret in secrets if is_hidden_in_answers(secret)}, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, self.secrets))) if self.secrets else None
        self.begins = re.compile("|".join({re.escape(secret[0]) for secret in self.secrets}))
        self.longest = max(map(len, self.secrets), default=0)
        self.may_show = min(_LONGEST_BEGINNING, min(map(len, self.secrets), default=0) // 2)


class StreamRedactor:
    """Redacts a text that comes in pieces; holds back only an end that may be the beginning of a secret."""

    def __init__(self, hidden: SecretsInAnswers) -> None:
        self._hidden = hidden
        self._held = ""

    def feed(self, piece: str) -> str:
        """Add a piece, and return what can be shown by now."""
        pattern = self._hidden.pattern
        # Without the first character of any, there is none in it, nor the beginning of one.
        if pattern is None or (not self._held and self._hidden.begins.search(piece) is None):
            return piece
        text, shown, place = self._held + piece, "", 0
        while True:
            found = pattern.search(text, place)
            begin = len(text) if found is None else found.start()
            held = self._possible_beginning(text, place)
            # A longer secret may begin where, or before, a shorter one stands.
            if held <= begin:
                self._held = text[held:]
                return shown + text[place:held]
            if found is None:
                self._held = ""
                return shown + text[place:]
            shown += text[place:begin] + HIDDEN
            place = found.end()

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        pattern = self._hidden.pattern
        if pattern is None or not held:
            return held
        # A secret within the beginning of a longer one is hidden, and so is most of a secret that breaks off.
        shown = pattern.sub(HIDDEN, held)
        place = self._possible_beginning(shown, 0)
        return shown[:place] + HIDDEN if len(shown) - place > self._hidden.may_show else shown

    def _possible_beginning(self, text: str, place: int) -> int:
        """Return the first place from which on the text is the beginning, not the whole, of a secret; else past it."""
        for begin in self._hidden.begins.finditer(text, max(place, len(text) - self._hidden.longest + 1)):
            rest = text[begin.start() :]
            if any(len(rest) < len(secret) and secret.startswith(rest) for secret in self._hidden.secrets):
                return begin.start()
        return len(text) + 1


def _without_keys_and_paths(line: str) -> str:
    return _PATH.sub(_api_path, re.sub(_KEY_LIKE, HIDDEN, printable(line)))


def _api_path(found: re.Match[str]) -> str:
    """Return a path of an API as it is, and any other hidden."""
    path = found[0]
    _, first, *_, last = path.split("/") if path.startswith("/") and "\\" not in path else ("", "home", "")
    is_of_a_file = first in _OUR_ROOTS or re.fullmatch(_ROOT, first) or re.fullmatch(_A_FILE, last, re.IGNORECASE)
    return "[path]" if is_of_a_file else path


def is_hidden_in_answers(secret: str) -> bool:
    """Whether a secret is long and odd enough that an answer contains it only by repeating it."""
    if "://" in secret or _PARTS.search(secret.rstrip("=")):  # an address, or words: its parts are secrets, if any
        return False
    has_digit = any(map(str.isdigit, secret))
    return len(secret) >= (_SHORTEST_IN_ANSWERS if has_digit else _SHORTEST_WITHOUT_DIGIT)


def credentials_in(value: str) -> tuple[str, ...]:
    """List the parts of a value that may come back alone, such as a token without its scheme."""
    return tuple(part for part in _PARTS.split(value) if part != value and is_hidden_in_answers(part))


def _rest(text: StreamRedactor, thought: StreamRedactor) -> Iterable[BackendEvent]:
    if held := thought.flush():
        yield ThoughtDelta(held)
    if held := text.flush():
        yield TextDelta(held)
