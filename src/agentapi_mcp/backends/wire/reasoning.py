"""The text of an answer as it comes, without the reasoning that models mark in it, such as `<think>…</think>`."""

from collections.abc import Iterable, Iterator

from agentapi_mcp.core.backends.events import StopReason, TextDelta, ThoughtDelta
from agentapi_mcp.core.backends.reasoning import CLOSING, REASONING, without_reasoning

# To read each costs the time to copy what is left: more are no reasoning, but text of an odd answer.
_MOST_BLANKS, _MOST_THOUGHTS = 1_000, 20


class AnswerText:
    """Tells text from reasoning, which counts only at the beginning of an answer, and knows what came already."""

    def __init__(self) -> None:
        self._came: list[str] = []
        self._size = self._thoughts = 0
        self._is_plain = False
        self._is_thinking = False
        self._tag = ""  # what began the reasoning
        self._held = ""  # what may still become a tag, or stands before one
        self._thought: list[str] = []
        self._is_in_wholes = True
        self.is_seen = False
        self.has_thought = False

    @property
    def is_begun(self) -> bool:
        """Whether anything came, reasoning included."""
        return bool(self._came)

    def add(self, piece: str, *, of_pieces: bool = True) -> Iterable[TextDelta | ThoughtDelta]:
        """Add the next piece; after one `of_pieces` a whole message can only repeat what came."""
        self._came.append(piece)
        self._size += len(piece)
        self._is_in_wholes = self._is_in_wholes and not of_pieces
        return (TextDelta(piece),) if self._is_plain else self._marked(piece)

    def add_whole(self, message: str) -> Iterator[TextDelta | ThoughtDelta]:
        """Add a whole message, of which all or a part may have come before.

        Raises:
            ValueError: it differs from the pieces that came.
        """
        # Joined for a message that is long enough alone: a server may send each of its pieces as one.
        if len(message) >= self._size and message.startswith("".join(self._came)):
            if rest := message[self._size :]:
                yield from self.add(rest, of_pieces=False)
        elif self._is_in_wholes:  # a server that sends its pieces as messages
            yield from self.add(message, of_pieces=False)
        else:
            raise ValueError(message)

    def finish(self, reason: StopReason) -> Iterator[TextDelta]:
        """Return what was held back, at the end of the answer."""
        if self._is_thinking and reason is StopReason.END:
            # The model has said all: what it began as reasoning is the only answer that there is.
            yield self._text(f"{self._tag}{''.join(self._thought)}{self._held}")
        elif self._held and not self._is_thinking and not (self.has_thought and self._held.isspace()):
            yield self._text(self._held)
        self._held = ""

    def warning(self, reason: StopReason) -> str | None:
        """Say what became of reasoning that no reply follows."""
        if self._is_thinking and reason is StopReason.END:
            return f"The answer begins with {self._tag} and has no {REASONING[self._tag]}, so it may be reasoning."
        if self.has_thought and not self.is_seen and reason is not StopReason.TOOL_CALLS:
            return "The answer ended while the model was still reasoning, so there is no reply."
        if self._is_plain and not self.has_thought and self._begins_with_reasoning():
            return (
                f"What stands before {CLOSING} in the answer may be the model's reasoning: later messages are sent "
                "without it."
            )
        return None

    def _begins_with_reasoning(self) -> bool:
        text = "".join(self._came)
        return CLOSING in text and without_reasoning(text) is not text

    def _text(self, text: str) -> TextDelta:
        self.is_seen = self.is_seen or not text.isspace()
        return TextDelta(text)

    def _marked(self, piece: str) -> Iterator[TextDelta | ThoughtDelta]:
        self._held += piece
        while self._held and not self._is_plain:
            if self._is_thinking:
                closing = REASONING[self._tag]
                thought, tag, rest = self._held.partition(closing)
                self._held = rest if tag else _beginning_of(closing, thought)
                thought = thought if tag else thought[: len(thought) - len(self._held)]
                if thought:
                    self._thought.append(thought)
                    yield ThoughtDelta(thought)
                if not tag:
                    return
                self._is_thinking = False
                self._thought.clear()
                continue
            begun = self._held.lstrip()
            opening = next(filter(begun.startswith, REASONING), "")
            if opening and self._thoughts < _MOST_THOUGHTS:
                self._thoughts += 1
                self._is_thinking = self.has_thought = True
                self._tag, self._held = opening, begun[len(opening) :]
            elif len(self._held) <= _MOST_BLANKS and any(tag.startswith(begun) for tag in REASONING):
                return
            else:
                self._is_plain = True
                text, self._held = (begun if self.has_thought else self._held), ""
                yield self._text(text)


def _beginning_of(tag: str, text: str) -> str:
    """Return the end of a text that may be the beginning of this tag."""
    sizes = range(min(len(text), len(tag) - 1), 0, -1)
    return next((text[-size:] for size in sizes if text.endswith(tag[:size])), "")
