"""What the documentation says that a machine can check: links, snippets, length, and what it must not name."""

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import click
import pytest

from agentapi_mcp.backends.guide.pages import anchor
from agentapi_mcp.cli.main import main
from agentapi_mcp.cli.mcp_clients import Entry, words_of
from tests.support.command_tree import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
LONGEST_LINE = 126
INDEX = ROOT / "docs" / "index.md"
# What people look for first, in the words of the index, and the section that has it.
TASKS = {
    "add an agent": "commands.md#agents-add-agents-remove",
    "remove an agent": "commands.md#agents-add-agents-remove",
    "see what I spent": "cost.md#what-did-i-spend",
    "use it from Python": "how-to/use-from-python.md",
    "connect a client": "how-to/connect-a-client.md",
    "back up": "how-to/backup-and-uninstall.md#back-up",
    "restore a backup": "how-to/backup-and-uninstall.md#restore",
    "move to another machine": "how-to/backup-and-uninstall.md#move-to-another-machine-or-to-your-own-postgres",
    "upgrade": "getting-started.md#upgrade",
    "uninstall": "how-to/backup-and-uninstall.md#uninstall",
    "change the port": "how-to/serve.md#change-the-port",
    "turn off telemetry": "what-it-does-not-do.md#telemetry",
    "know what it does not do": "what-it-does-not-do.md",
    "let people sign in": "how-to/sign-in.md",
    "invite people": "how-to/organization.md#let-people-in",
    "own keys": "how-to/own-keys.md",
    "why something fails": "troubleshooting.md",
}
CLIENTS = ("Claude Desktop", "Claude Code", "VS Code", "Cursor", "Codex")


each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in HEADING.findall(prose(page))}


def snippets(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


@each_page
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    broken: list[str] = []
    for target in LINK.findall(prose(page)):
        path, _, fragment = target.partition("#")
        if "://" in target:
            continue
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (fragment and fragment not in anchors(place)):
            broken.append(target)
    assert not broken


def linked_from(page: Path) -> set[Path]:
    targets = (target.partition("#")[0] for target in LINK.findall(prose(page)) if "://" not in target)
    return {(page.parent / target).resolve() for target in targets if target.endswith(".md")}


def test_the_index_leads_to_every_page_and_to_those_for_users_at_once() -> None:
    found = known = {INDEX}
    while found:
        found = {target for page in found for target in linked_from(page)} & set(PAGES) - known
        known = known | found
    assert [page for page in PAGES if page not in known and page.parent != ROOT] == []
    at_once = {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "how-to").glob("*.md")} - {INDEX}
    assert sorted(at_once - linked_from(INDEX)) == [], "name a task in docs/index.md that leads there"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_index_leads_from_what_people_want_to_the_section(task: str) -> None:
    rows = [line.split("|") for line in INDEX.read_text().splitlines() if line.startswith("|")]
    leads = [row[2] for row in rows if task in row[1]]
    assert len(leads) == 1, f"docs/index.md has {len(leads)} entries to {task}"
    assert f"({TASKS[task]})" in leads[0]


@each_page
def test_every_picture_is_there_and_is_described(page: Path) -> None:
    pictures = IMAGE.findall(prose(page))
    assert [target for about, target in pictures if not about or not (page.parent / target).is_file()] == []


def fault_of(snippet: str, parse: Callable[[str], object]) -> str | None:
    """Return why a snippet does not parse, with its first line; None if it does."""
    try:
        parse(snippet)
    except ValueError as fault:
        return f"{snippet.partition(chr(10))[0]}: {fault}"
    return None


@each_page
def test_every_snippet_parses(page: Path) -> None:
    faults = [fault_of(snippet, json.loads) for snippet in snippets(page, "json")]
    faults += [fault_of(snippet, tomllib.loads) for snippet in snippets(page, "toml")]
    assert [fault for fault in faults if fault is not None] == []


@pytest.mark.parametrize("parse", [json.loads, tomllib.loads], ids=["json", "toml"])
def test_a_snippet_that_does_not_parse_is_told(parse: Callable[[str], object]) -> None:
    assert str(fault_of("[1,\n", parse)).startswith("[1,: ")


@each_page
def test_a_heading_stands_once_in_its_page(page: Path) -> None:
    headings = HEADING.findall(prose(page))
    assert len(headings) == len(set(headings))


def test_the_readme_is_short_and_has_what_a_newcomer_needs() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for needed in ("make run", "make test", *CLIENTS):
        assert needed in text


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/connect-a-client.md"])
def test_every_client_is_told_the_same_command(page: str) -> None:
    read = [json.loads(snippet) for snippet in snippets(ROOT / page, "json")]
    read += [tomllib.loads(snippet) for snippet in snippets(ROOT / page, "toml")]
    entries = [next(iter(cast(dict[str, dict[str, Entry]], servers).values()))["agentapi"] for servers in read]
    commands = {tuple(words_of(entry)) for entry in entries}
    assert len(entries) >= 3
    assert commands == {("/path/to/clone/.venv/bin/agentapi-mcp",)}


def documented_commands() -> list[str]:
    lines = [line for page in PAGES for snippet in snippets(page, "console") for line in snippet.splitlines()]
    found = [line.partition("agentapi-mcp ")[2] for line in lines if re.match(r"\$ (?:.*\| )?agentapi-mcp ", line)]
    return sorted({re.split(r" (?:#|>|\|) ", command + " # ")[0].strip() for command in found})


@pytest.mark.parametrize("command", documented_commands())
def test_every_documented_command_is_understood(command: str) -> None:
    here: click.Command = main
    words = shlex.split(command)
    while isinstance(here, click.Group) and not (here.invoke_without_command and (words or ["-"])[0].startswith("-")):
        word = words.pop(0)
        assert word in here.commands, f"there is no {word}"
        here = here.commands[word]
    # Parses the arguments as the command line does, and runs nothing but `--version`.
    with suppress(click.exceptions.Exit), here.make_context(command, words):
        pass


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    for name, command in main.commands.items():
        names = [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
        missing = [each for each in names if f"agentapi-mcp {each}" not in page]
        assert missing == [], "describe each in docs/commands.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    options = [each for parameter in COMMANDS[name].params for each in (*parameter.opts, *parameter.secondary_opts)]
    assert options
    assert [option for option in options if option.startswith("--") and option not in page] == []


def test_every_option_that_is_documented_is_one() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    there = {each for command in COMMANDS.values() for parameter in command.params for each in parameter.opts}
    there |= {
        each for command in COMMANDS.values() for parameter in command.params for each in parameter.secondary_opts
    }
    there |= {each for parameter in main.params for each in parameter.opts} | {"--help"}
    assert sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - there) == []


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", *map(str, PAGES)])
def test_prose_is_wrapped(name: str) -> None:
    lines = [line for line in prose(ROOT / name).splitlines() if not line.startswith(("|", "<!--", "#"))]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []
