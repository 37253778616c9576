"""Newcomers' questions find the section that answers them: the quality of the search is a test."""

import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.backends import registry
from agentapi_mcp.backends.guide.answers import Draft
from agentapi_mcp.backends.guide.index import Index
from agentapi_mcp.backends.guide.pages import Section, find_documentation, read_sections, split_page, trimmed
from agentapi_mcp.backends.guide.written import written
from agentapi_mcp.core.backends.events import BackendEvent, TextDelta
from agentapi_mcp.core.backends.models import MOST_BORROWER_BYTES, BackendTurn, Writer
from agentapi_mcp.testing.hosts import FakeHost
from tests.backends.guide.questions import ANSWERED_BY, README, UNANSWERABLE
from tests.support.peers.cases import backend_turn

SOURCE = re.compile(r"\*\*[^*\n]+\*\* \((docs/[^)\s]+)\)")
LIMITS = "what-it-does-not-do.md"


@cache
def shipped() -> Index:
    return Index(read_sections(find_documentation()))


def best(question: str) -> str:
    """Return where the best section for a question is."""
    found = shipped().search(question)
    return found[0].section.source if found else "nothing"


PAGES = sorted({section.page for section in shipped().sections})


async def answer(question: str) -> str:
    guide = registry.create("guide", {}, FakeHost())
    events = [event async for event in guide.run(backend_turn(question, model_id=None))]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("question", "source"), [(question, source) for source, asked in ANSWERED_BY.items() for question in asked]
)
async def test_the_first_section_of_the_answer_is_the_one_that_answers_the_question(question: str, source: str) -> None:
    said = await answer(question)
    assert SOURCE.findall(said)[:1] == [source], said


@pytest.mark.parametrize("question", UNANSWERABLE)
async def test_the_guide_says_that_it_has_no_answer_to_a_question_about_something_else(question: str) -> None:
    said = await answer(question)
    assert said.startswith("I found nothing in the documentation that answers this. I am not a language model")


@pytest.mark.parametrize(
    ("ask", "section"),
    [(ask, section) for section in shipped().sections if section.page == LIMITS for ask in section.asks[:9]],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_what_it_does_not_do_is_answered_by_no(ask: str, section: Section) -> None:
    if section.heading == section.title:
        assert (await answer(ask)).startswith("**What it does not do**")
        return
    assert re.match(r"(No|Not yet)\. [A-Z]", await answer(ask))


WORDS = [
    *("print", "rename", "search", "script", "bill", "table", "row", "column"),
    *("turn", "team", "colleague", "project"),
]


@pytest.mark.parametrize("verb", WORDS)
async def test_no_section_is_shown_in_place_of_a_better_one_that_does_not_fit(verb: str) -> None:
    wrong: list[tuple[str, list[str], str]] = []
    for thing in WORDS:
        question = f"can I {verb} the {thing} of my project?"
        shown = SOURCE.findall(await answer(question))[:1]
        if verb != thing and shown not in ([], [best(question)]):
            wrong.append((question, shown, best(question)))
    assert wrong == []


async def test_a_plain_no_is_never_said_after_another_answer() -> None:
    said = await answer("can it read my files")
    assert said.startswith("**What an agent can do on your machine**")
    assert "Not yet. " not in said


@pytest.mark.parametrize("page", PAGES)
def test_every_question_that_an_author_foresaw_finds_its_section_first(page: str) -> None:
    wrong = [
        f"{ask!r} of {section.source} finds {best(ask)}"
        for section in shipped().sections
        for ask in section.asks
        if section.page == page and best(ask) != section.source
    ]
    assert wrong == [], "say these otherwise, or leave them to the section that is found"


@pytest.mark.parametrize("page", PAGES)
def test_every_heading_finds_its_section_first(page: str) -> None:
    times = Counter(section.heading.lower() for section in shipped().sections)

    def asked(section: Section) -> str:
        alone = times[section.heading.lower()] == 1
        return section.heading if alone else f"{section.title}: {section.heading}"

    wrong = [
        f"{asked(each)!r}: {best(asked(each))}"
        for each in shipped().sections
        if each.page == page and asked(shipped().search(asked(each))[0].section) != asked(each)
    ]
    assert wrong == [], "rename these headings so that each is found by its own words"


def test_every_section_says_which_question_it_answers() -> None:
    silent = [each.source for each in shipped().sections if not each.asks and not each.page.startswith("design/")]
    assert silent == [], "below the heading of each, write <!-- asks: a question? | another one? -->"


def test_each_part_of_the_readme_has_a_section_that_answers_its_question() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    headings = [section.heading for section in split_page("README.md", text)][1:]
    assert sorted(headings) == sorted(README), "say in tests/backends/guide/questions.py what each is about"
    assert {heading: best(ask) for heading, (ask, _) in README.items()} == {
        heading: source for heading, (_, source) in README.items()
    }


def test_no_question_is_answered_by_two_sections() -> None:
    asked = Counter(ask.lower() for section in shipped().sections for ask in section.asks)
    assert [ask for ask, times in asked.items() if times > 1] == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("how do I retsore a backup?", "how do I restore a backup?"),
        ("how do I add OpenRuter?", "how do I add OpenRouter?"),
        ("how do I unisntall it?", "how do I uninstall it?"),
        ("is there a dashbord?", "is there a dashboard?"),
        ("how do I cancell a trun?", "how do I cancel a turn?"),
    ],
)
def test_a_typing_error_finds_the_same_section(typed: str, meant: str) -> None:
    assert best(typed) == best(meant)


@pytest.mark.parametrize(
    ("other", "usual"),
    [
        ("how do I log in?", "how do I sign in?"),
        ("BACK UP THE DATABASE", "how do I back up the database?"),
        ("how do I back-up the database", "how do I back up the database?"),
        ("can I use VS Code?", "can I use vscode?"),
        ("settings of an organization", "settings of an organisation"),
    ],
)
def test_the_spelling_of_a_word_does_not_matter(other: str, usual: str) -> None:
    assert best(other) == best(usual)


@given(
    st.lists(st.sampled_from([*{word for asked in ANSWERED_BY.values() for each in asked for word in each.split()}]))
)
def test_any_words_are_ranked_the_same_each_time_with_a_share_that_is_one(words: Sequence[str]) -> None:
    question = " ".join(words)
    found = shipped().search(question)
    assert found == shipped().search(question)
    assert all(0 <= match.coverage <= 1.0000001 for match in found)


def test_no_section_is_shown_with_a_relative_link() -> None:
    relative = re.compile(r"\]\((?!https?://|mailto:)[^)\s]+\)")
    assert not [(section.source, found) for section in shipped().sections for found in relative.findall(section.body)]


async def test_what_is_sent_to_a_lent_model_has_the_size_that_is_reserved_for_it() -> None:
    turns: list[BackendTurn] = []

    async def run(turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        turns.append(turn)
        yield TextDelta("yes [1]")

    # Of each section, what is sent of a long one is the longest.
    longest = sorted(shipped().sections, key=lambda section: len(trimmed(section, 2_400)))[-6:]
    writer = Writer(agent="a", model="m", run=run)
    draft = Draft("", "how?", tuple(longest))
    events = [each async for each in written(backend_turn("how?"), writer, draft, lambda _: True)]
    assert events
    [sent] = turns
    assert sent.history == ()
    assert 8_000 < len((sent.message + (sent.system or "")).encode()) <= MOST_BORROWER_BYTES
