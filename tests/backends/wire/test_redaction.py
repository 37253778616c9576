"""What is left of a provider's message."""

import sys
from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.redaction import (
    HIDDEN,
    LONGEST_LINE,
    Redactor,
    SecretsInAnswers,
    StreamRedactor,
)
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    SignOfLife,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    ToolState,
)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Rate limit reached.", "Rate limit reached."),
        ("\n\n  first \t line\nsecond", "first line second"),
        ("boom\n  it says\nTraceback (most recent call last):\n  more", "boom it says"),
        ("boom\n    at async /srv/ccr/dist/cli.js:81:1234", "boom"),
        ("boom\n    at process.processTicksAndRejections (node:internal)", "boom"),
        ("look\nat (this)", "look at (this)"),
        ("key hunter2-hunter2 is wrong", "key [hidden] is wrong"),
        ("Incorrect API key provided: sk-abc12***xyz9.", "Incorrect API key provided: [hidden]"),
        ("Bearer ya29.c0ffee.beef refused", "[hidden] refused"),
        ("AIzaSyA1234567890 is not valid", "[hidden] is not valid"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln expired", "token [hidden] expired"),
        ("at https://example.test/v1?key=abc123&x=1", "at https://example.test/v1?[hidden]&x=1"),
        ("failed in /srv/app/main.py at line 3", "failed in [path] at line 3"),
        (f"no such file: {__file__}", "no such file: [path]"),
        (f"{sys.executable}: not found", "[path]: not found"),
        (f"(file://{__file__})", "([path])"),
        ("C:\\Users\\me\\x.txt and \\\\server\\share\\x", "[path] and [path]"),
        ("~/.config/x, path=/home/me/x", "[path], path=[path]"),
        ("/anywhere/else/keys.toml:3", "[path]:3"),
        # of an API
        ("Call `/v1/models` to view available models", None),
        ("POST /v1/chat/completions is not here, nor /chat/completions", None),
        ("/models/gemini-2.5-pro:generateContent and /openai/deployments/gpt-4.1/chat", None),
        # words that only look like keys
        ("key_limit_exceeded for key-management", None),
        ("Bearer authentication is required, not basic authentication", None),
        (
            "Basic dXNlcjpwYXNz is wrong, and so is Bearer abcdefghijklmnopqrstuvwxyz",
            "[hidden] is wrong, and so is [hidden]",
        ),
        ("no model openai/gpt-4o, see https://example.test/docs/models", None),
        ("red \x1b[31malert\u202e", "red [31malert"),
        ("\x00\n", ""),
    ],
)
def test_a_line_is_shown_without_what_may_not_be_seen(said: str, shown: str | None) -> None:
    assert Redactor(["hunter2-hunter2", "hunter2"]).line(said) == (said if shown is None else shown)


def test_a_long_line_is_cut() -> None:
    assert len(Redactor().line("a " * 10_000)) == LONGEST_LINE


@given(st.integers(0, 40), st.sampled_from(["x", " ", "\n"]))
def test_a_secret_at_the_end_of_what_is_read_does_not_begin_there(missing: int, filling: str) -> None:
    line = Redactor([KEY]).line(filling * (6_000 - missing) + KEY + filling)
    assert KEY[:4] not in line


def test_a_trivial_secret_does_not_blank_the_message() -> None:
    assert Redactor(["a"]).line("a banana") == "a banana"


# --- answers

KEY = "sk-test-0123456789abcdef"
# Of few characters, so that texts are often nearly the secret, and one is the beginning, middle or end of another.
secrets = st.text("ab1", min_size=8, max_size=14).filter(lambda secret: "1" in secret)
texts = st.text("ab1 ", max_size=60)


def streamed(known: list[str], pieces: list[str]) -> list[str]:
    """Return what is shown after each piece, and at the end."""
    redactor = StreamRedactor(SecretsInAnswers(known))
    return [*map(redactor.feed, pieces), redactor.flush()]


def cut_up(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return [text[begin:end] for begin, end in pairwise(places)]


@given(st.lists(secrets, min_size=1, max_size=3), st.lists(texts | secrets, max_size=6), st.lists(st.integers(0, 90)))
@example(["a1a1a1a1", "a1a1a1a1a1a1b"], ["a1a1a1a1", "a1a1b"], list(range(90)))
@example(["a1a1a1a1", "a1a1a1a1a1a1b"], ["a1a1a1a1", "a1a1"], list(range(90)))
def test_an_answer_in_pieces_is_redacted_as_the_whole(known: list[str], parts: list[str], cuts: list[int]) -> None:
    said = "".join(parts)
    shown = "".join(streamed(known, cut_up(said, cuts)))
    assert not [secret for secret in known if secret in shown]
    assert shown == "".join(streamed(known, [said]))
    if not any(secret[:4] in said for secret in known):
        assert shown == said


@given(texts, st.lists(st.integers(0, 90)))
def test_nothing_is_held_back_that_cannot_begin_a_secret(text: str, cuts: list[int]) -> None:
    pieces = cut_up(text.replace("1", "c"), cuts)
    assert streamed(["1ab1ab1ab", KEY], pieces) == [*pieces, ""]


@given(st.lists(secrets, min_size=1, max_size=3), st.lists(texts, max_size=8))
def test_less_is_held_back_than_the_longest_secret_has(known: list[str], pieces: list[str]) -> None:
    redactor, shown = StreamRedactor(SecretsInAnswers(known)), ""
    for count, piece in enumerate(pieces, 1):
        shown += redactor.feed(piece)
        said = "".join(pieces[:count])
        if not any(secret in said for secret in known):
            assert said.startswith(shown)
            assert len(said) - len(shown) < max(map(len, known))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"It is {KEY}.", f"It is {HIDDEN}."),
        (f"{KEY}{KEY}", HIDDEN * 2),
        (f"It is {KEY[:-1]}", f"It is {HIDDEN}"),  # broken off
        (f"It is {KEY[:7]}", f"It is {KEY[:7]}"),  # as any word may begin
        (f"It is {KEY[:-1]}!", f"It is {KEY[:-1]}!"),  # another key
        ("sk", "sk"),
    ],
)
def test_a_secret_is_hidden_also_at_the_end_of_an_answer(said: str, shown: str) -> None:
    assert "".join(streamed([KEY], list(said))) == shown


@pytest.mark.parametrize(
    ("value", "said", "shown"),
    [
        ("Bearer abc123def456", "the token abc123def456 is yours", f"the token {HIDDEN} is yours"),
        ("session=abc123def456; theme=dark", "abc123def456 is dark", f"{HIDDEN} is dark"),
        ("dXNlcjpwYXNzd29yZA==", "it is dXNlcjpwYXNzd29yZA==!", f"it is {HIDDEN}!"),
        # What an answer may well say by itself.
        ("ollama", "ollama runs here", None),
        ("not-needed", "a key is not-needed", None),
        ("Acme Corporation", "Acme Corporation makes anvils", None),
        ("https://acme.example/assistant1", "see https://acme.example/assistant1", None),
    ],
)
def test_what_counts_as_a_secret_in_an_answer(value: str, said: str, shown: str | None) -> None:
    redactor = StreamRedactor(SecretsInAnswers(Redactor([value]).secrets))
    assert redactor.feed(said) + redactor.flush() == (said if shown is None else shown)


async def run(*events: BackendEvent, error: BackendError | None = None) -> AsyncGenerator[BackendEvent]:
    for event in events:
        yield event
    if error is not None:
        raise error


async def test_every_text_of_an_event_is_redacted_and_the_state_is_not() -> None:
    said = [
        ThoughtDelta(f"key {KEY[:5]}"),
        TextDelta(f"It is {KEY[:9]}"),
        SignOfLife(),
        ThoughtDelta(KEY[5:]),
        ToolActivity(KEY, ToolState.STARTED, f"with {KEY}"),
        TextDelta(f"{KEY[9:]}. Done"),
        Finished(
            model=f"m-{KEY}", provider=KEY, provider_request_id=KEY, warning=f"{KEY} was used", state={"session": KEY}
        ),
    ]
    assert [event async for event in Redactor([KEY]).events(run(*said))] == [
        ThoughtDelta("key "),
        TextDelta("It is "),
        SignOfLife(),
        ThoughtDelta(HIDDEN),
        ToolActivity(HIDDEN, ToolState.STARTED, f"with {HIDDEN}"),
        TextDelta(f"{HIDDEN}. Done"),
        Finished(
            model=f"m-{HIDDEN}",
            provider=HIDDEN,
            provider_request_id=HIDDEN,
            warning=f"{HIDDEN} was used",
            state={"session": KEY},
        ),
    ]


async def test_what_was_held_back_comes_before_the_end_and_before_a_failure() -> None:
    said = (TextDelta("the desk"), ThoughtDelta("s"))
    rest = [ThoughtDelta("s"), TextDelta("sk")]
    done = [event async for event in Redactor([KEY]).events(run(*said, Finished()))]
    assert done == [TextDelta("the de"), SignOfLife(), *rest, Finished()]
    failing = Redactor([KEY]).events(run(*said, error=BackendError(BackendFault.UPSTREAM, "It failed.")))
    seen = [await anext(failing) for _ in range(4)]
    with pytest.raises(BackendError):
        await anext(failing)
    assert seen == [TextDelta("the de"), SignOfLife(), *rest]
    assert [event async for event in Redactor([KEY]).events(run(*said))] == [TextDelta("the de"), SignOfLife(), *rest]


async def test_closing_the_answer_closes_the_run() -> None:
    closed = False

    async def runs_on() -> AsyncGenerator[BackendEvent]:
        nonlocal closed
        try:
            while True:
                yield TextDelta("w ")
        finally:
            closed = True

    events = Redactor([KEY]).events(runs_on())
    assert await anext(events) == TextDelta("w ")
    await events.aclose()
    assert closed
