"""Markdown that is shown while it comes."""

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from agentapi_mcp.cli.chat.markdown_stream import MarkdownStream
from tests.support.visibility import hides_something

ANSWER = """# The title

Words in **bold type**, in *italics* and in `code`, a [link](https://example.org), 2 * 3 and some_snake_case words.
The second line of the paragraph.

- an item that is as long as this one, so that it does not fit into a row
- another **item**
  1. the first inside
  2. the second inside

> A quotation that is long enough for two rows of a narrow terminal.

```python
def doubled(number):
    return number * 2


print(doubled(4))
```

| model | price |
|---|---:|
| `small` | 1 |
| **large** | 20 |

日本語の文章は単語の間に空白がないので、どこでも改行できます。 👩🏽‍💻 works.

The end has an `unfinished piece of code
"""
PIECES = [
    *("*", "**", "_", "`", "```", "~~~\n", "\n", "\n\n", "- ", "1. ", "# ", "> ", "| a | b |\n|---|---|\n", "[x](y)"),
    *(
        "word ",
        "snake_case ",
        "日本",
        "👩🏽‍💻",
        "<b>",
        "&amp;",
        "---\n",
        "===\n",
        "    code\n",
        "\\",
        "!",
        "[",
        "]",
        "\t",
    ),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=40).map("".join)
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def shown(pieces: list[str], *, width: int = 40, colours: str | None = "standard") -> list[str]:
    """Return what is written for each piece, and at the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=colours)  # type: ignore[arg-type]  # one of its names
    written, steps = list[str](), list[str]()
    stream = MarkdownStream(written.append, console)
    for piece in pieces:
        stream.feed(piece)
        stream.refresh()
        steps.append("".join(written))
    stream.finish()
    return [*steps, "".join(written)]


def unstyled(text: str) -> str:
    return STYLES.sub("", text)


def test_an_answer_looks_the_same_however_it_is_cut() -> None:
    whole = shown([ANSWER])[-1]
    assert shown(list(ANSWER))[-1] == whole
    text = unstyled(whole)
    assert "• an item that is as long as this one,\n  so that it does not fit into a row\n" in text
    assert "  1. the first inside\n" in text
    assert "│ A quotation that is long enough for\n│ two rows" in text
    assert "  print(doubled(4))\n" in text
    assert re.search(r"small +│ +1", text)
    assert "**" not in text
    assert "```" not in text
    assert "\x1b[1mbold" in whole
    assert "\x1b[94mdef\x1b[0m" in whole


def test_every_word_is_shown_as_soon_as_it_is_certain() -> None:
    first, second, *_ = shown(["The first words", " and more"])
    assert (first, second) == ("The first", "The first words and")
    steps = shown(["see **bo", "ld** now "])
    assert steps[0] == "see"
    assert unstyled(steps[1]) == "see bold now"
    steps = shown(["```python\nx = 1\ny", " = 2\n"])
    assert unstyled(steps[0]) == "  x = 1"
    assert unstyled(steps[1]) == "  x = 1\n  y = 2"


@given(texts)
def test_what_is_shown_is_never_taken_back(text: str) -> None:
    steps = shown(list(text))
    assert all(after.startswith(before) for before, after in pairwise(steps))


@given(texts)
def test_every_letter_and_digit_is_shown_however_it_is_cut(text: str) -> None:
    def letters(of: str) -> list[str]:
        return sorted(each for each in unstyled(of) if each.isalnum() and each.isascii())

    whole, cut = shown([text], colours=None)[-1], shown(list(text), colours=None)[-1]
    assert len(letters(cut)) >= len(letters(whole))


@pytest.mark.parametrize("width", [1, 2, 10, 40])
@given(text=texts)
def test_no_row_of_words_is_wider_than_the_terminal(text: str, width: int) -> None:
    words = " ".join(re.findall(r"[a-z日本]+", text))
    for row in unstyled(shown(list(words), width=width)[-1]).split("\n"):
        assert cell_len(row) <= max(width, 2)


@given(texts)
def test_nothing_but_styles_and_lines_is_written(text: str) -> None:
    for each in (text, f"\x1b[2J\x1b]0;title\x07{text}\r"):
        left = unstyled(shown(list(each))[-1])
        assert not [character for character in left if ord(character) < 32 and character not in "\n\t"]


@pytest.mark.parametrize(
    "text", ["rm &#x202E;fdp.exe", "a&#x200b;b", "| a |\n|---|\n| &#xE0041; |", "[x](http://a&#x202E;b)"]
)
def test_nothing_is_hidden_in_an_entity(text: str) -> None:
    assert not hides_something(shown([text], colours=None)[-1].replace("\n", ""))


def test_a_list_begins_with_its_own_number() -> None:
    assert shown(["0. nought\n1. one\n"], colours=None)[-1].split() == ["0.", "nought", "1.", "one"]
    assert shown(["1. one\n"], colours=None)[-1].split() == ["1.", "one"]


def test_without_colours_only_text_is_written() -> None:
    assert "\x1b" not in shown([ANSWER], colours=None)[-1]


@pytest.mark.parametrize(
    "answer", ["word " * 20_000, "x" * 100_000, "```\n" + "line of code\n" * 500, "- item\n" * 5000]
)
def test_a_long_block_is_shown_whole(answer: str) -> None:
    pieces = [answer[place : place + 1000] for place in range(0, len(answer), 1000)]
    steps = shown(pieces, width=80)
    wanted = re.sub(r"\s", "", answer.replace("```", "").replace("- ", "• "))
    assert re.sub(r"\s", "", unstyled(steps[-1])) == wanted
    assert len(re.sub(r"\s", "", unstyled(steps[-2]))) > len(wanted) - 25_000


def test_a_row_is_as_wide_as_the_terminal_is_by_then() -> None:
    written = list[str]()
    console = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    stream = MarkdownStream(written.append, console)
    stream.feed("one two three four five six seven eight ")
    stream.refresh()
    console.width = 20
    stream.feed("nine ten eleven twelve thirteen")
    stream.finish()
    assert "".join(written) == "one two three four five six seven eight\nnine ten eleven\ntwelve thirteen\n"
