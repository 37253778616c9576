"""Markdown that is shown while it comes."""

import asyncio
import io
import re
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from agentapi_mcp.cli.chat.markdown_stream import MarkdownStream
from agentapi_mcp.cli.chat.rendering import markdown_answer
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


UNIQUE = [chr(code) for code in range(0x410, 0x530) if chr(code).isalpha()]
MARKED = [
    *PIECES,
    *("W", "W ", "W W", "*W*", "**W", "`W`", "``W", "[W](http://example.org)", '[W](http://e.org "W")', "![W](u)"),
    *("[W]: http://e.org\n", "[W][W]", "[W]", "](u)", "(W", "<http://W>", "<b>W</b>", "<!-- W", "W\n===\n", "W\n---\n"),
    *(
        "| W | W |\n",
        "|W|W|\n|-|:-:|\n|W|W|W|\n",
        "|---|---|\n",
        "a | b\n---|---\n",
        "|\n",
        "```W\n",
        "~~~ W W\n",
        "~~",
    ),
    *(
        "- W\n",
        "  - W\n",
        "1. W\n",
        "7) W\n",
        "    W\n",
        "> W\n",
        ">> W\n",
        "+ \n",
        "# W #\n",
        "* * *\n",
        "\\\n",
        "  \n",
    ),
    *("&#87;", "\\*W", "日W本", "<br>", "\r", "\r\n", "\x85", "\v", "e\u0301", "🇩🇪", "❤️"),
]


@st.composite
def marked(draw: st.DrawFn) -> str:
    """Make Markdown in which each letter of another alphabet is there once."""
    text = "".join(draw(st.lists(st.sampled_from(MARKED), max_size=25)))
    letters = iter(UNIQUE)
    return re.sub("W", lambda _: next(letters), text)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text anywhere."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[begin:end] for begin, end in pairwise((0, *places, len(text)))]


@pytest.mark.parametrize("width", [40, 80, 200])
@given(data=st.data())
def test_any_text_looks_the_same_however_it_is_cut(width: int, data: st.DataObject) -> None:
    text = data.draw(marked() | texts)
    whole = shown([text], width=width)[-1]
    assert shown(list(text), width=width)[-1] == whole
    assert shown(data.draw(cut(text)), width=width)[-1] == whole


CODE = [
    "def W():\n",
    '"""W\n',
    "'W\n",
    "# W\n",
    "/* W\n",
    "*/\n",
    "\n",
    "\tW = [1,\n",
    "@W\n",
    "`${W\n",
    "<W>\n",
    "}`\n",
]


@pytest.mark.parametrize("language", ["python", "js", "html", "c", "sh", "diff", "json", "rst", "nothing-known"])
@given(data=st.data())
def test_code_has_the_same_colours_however_it_is_cut(language: str, data: st.DataObject) -> None:
    code = "".join(data.draw(st.lists(st.sampled_from(CODE), max_size=50)))
    text = f"```{language}\n{code}" + data.draw(st.sampled_from(["", "```\n"]))
    whole = shown([text])[-1]
    assert shown(text.splitlines(keepends=True))[-1] == whole
    assert shown(data.draw(cut(text)))[-1] == whole


@pytest.mark.parametrize(
    "pieces", [["a\r", "\n", "\nb"], ["a\r", "", "\n\nb"], ["a\r", "\n\r", "\nb"], ["a\r", "\r", "b"]]
)
def test_the_end_of_a_line_is_one_wherever_it_is_cut(pieces: list[str]) -> None:
    assert shown(pieces, colours=None)[-1] == "a\n\nb\n"


GREY = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:2|90)(?:;[0-9;]*)?m")


@given(marked() | texts)
def test_an_answer_has_nothing_in_the_grey_of_its_bill(text: str) -> None:
    """A bill that an agent makes up, such as in the text of a picture, is told from the one of the program."""
    assert not GREY.search(shown([text])[-1])


def test_neither_a_comment_nor_a_picture_nor_an_address_is_grey() -> None:
    text = "![0.1 s · $0.00]() [x](http://e.org)\n\n---\n\n```python\n# a comment\n\tx\n```\n\n~~~ wd\n~~~\n"
    seen = shown([text])[-1]
    assert not GREY.search(seen)
    assert "\x1b[3m[0.1\x1b[0m" in seen
    assert "\x1b[3m# a comment\x1b[0m" in seen


@pytest.mark.parametrize("width", [40, 80, 200])
@given(text=marked())
def test_every_word_is_shown_once_and_in_order(width: int, text: str) -> None:
    letters = [each for each in unstyled(shown(list(text), width=width)[-1]) if each in UNIQUE]
    wanted = [each for each in text if each in UNIQUE]
    assert sorted(letters) == sorted(wanted)
    if "|" not in text:  # cells stand beside each other, and wrap
        assert letters == wanted


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


@pytest.mark.parametrize("before", ["Prices:\n", "\n\n", "- in a list\n  ", "> ", "see:\n\n"])
def test_a_table_is_shown_once_wherever_it_stands(before: str) -> None:
    rest = before.strip("\n")[-2:] if before[-1] == " " else ""
    text = before + f"\n{rest.replace('- ', '  ')}".join(("| a | b |", "|---|---|", "| one | two | more |")) + "\n\nend"
    seen = shown(list(text), colours=None)
    assert [seen[-1].count(word) for word in ("one", "two", "more", "end", "┃", "|")] == [1, 1, 1, 1, 2, 0]
    assert not any("┃" in step for step in seen[: text.index("end") - 2])


@pytest.mark.parametrize("deep", [30, 60, 500])
def test_what_lies_too_deep_is_shown_as_it_was_written(deep: int) -> None:
    text = "> " * deep + "deep\n" + "- " * deep + "deeper\n"
    assert re.findall(r"deep\w*", shown(list(text), width=2000, colours=None)[-1]) == ["deep", "deeper"]


def test_a_table_that_is_too_wide_stands_cell_below_cell() -> None:
    text = "| a | b | c | d | e |\n|-|-|-|-|-|\n| 1 | 2 | 3 | 4 | 5 |\n"
    assert shown([text], width=40, colours=None)[-1] == "a\nb\nc\nd\ne\n\n1\n2\n3\n4\n5\n"
    assert shown([text], width=42, colours=None)[-1].startswith(" a ┃ b ┃")


def test_a_word_that_is_wider_than_its_column_is_not_cut_off() -> None:
    word = "".join(UNIQUE[:60])
    seen = shown([f"| a | b |\n|-|-|\n| {word} | c |\n"], width=30, colours=None)[-1]
    assert "".join(letter for letter in seen if letter in word) == word


def test_without_colours_only_text_is_written() -> None:
    assert "\x1b" not in shown([ANSWER], colours=None)[-1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "answer", ["word " * 20_000, "x" * 100_000, "```\n" + "line of code\n" * 500, "- item\n" * 5000]
)
def test_a_long_block_is_shown_whole(answer: str) -> None:
    pieces = [answer[place : place + 1000] for place in range(0, len(answer), 1000)]
    steps = shown(pieces, width=80)
    wanted = re.sub(r"\s", "", answer.replace("```", "").replace("- ", "• "))
    assert re.sub(r"\s", "", unstyled(steps[-1])) == wanted
    assert len(re.sub(r"\s", "", unstyled(steps[-2]))) > len(wanted) - 25_000


@pytest.mark.parametrize("unit", ["[", "![", "[a](b)", "[a] ", "*a*", "_a_ ", "`a` ", "日[a](b)"])
def test_the_cost_of_a_character_does_not_grow_with_their_number(unit: str) -> None:
    calls = [_calls(lambda size=size: shown([unit * (size // len(unit))])) for size in (2000, 16_000)]
    assert calls[1] < 10 * calls[0]
    assert calls[1] < 120 * 16_000


def _calls(work: Callable[[], object]) -> int:
    """Count the calls of functions, and the steps of generators."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_a_link_stands_in_a_few_brackets() -> None:
    assert shown(["[a [b ![c](d) e](f)"], colours=None)[-1] == "[a b [c] (d) e (f)\n"
    assert shown(["[[[[a](b)]]] [x](y)"], colours=None)[-1] == "[[[a (b)]]] x (y)\n"
    assert shown(["[[[[[a](b)]]]] [x](y)"], colours=None)[-1] == "[[[[[a](b)]]]] x (y)\n"


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


async def test_keys_are_looked_at_while_an_answer_of_any_size_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    answer, seen = markdown_answer(), ""
    answer.add("word " * 200_000 + "**late**")
    while not seen:
        await asyncio.sleep(0)  # noqa: TID251  # one step of the loop
        seen += capsys.readouterr().out
    assert len(seen) < 50_000
    answer.end()
    seen += capsys.readouterr().out
    assert seen.count("word") == 200_000
    assert seen.endswith("**late**\n")  # what nobody waits for is shown as it was written
