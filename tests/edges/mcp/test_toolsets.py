"""The toolsets are found in their package, and the documentation names what is found."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from agentapi_mcp.edges.mcp.options import DEFAULT_TOOLSET
from agentapi_mcp.edges.mcp.tools import toolsets
from agentapi_mcp.edges.mcp.tools.arguments import Argument
from agentapi_mcp.edges.mcp.tools.registry import find_tools
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names

DOCS = Path(__file__).parents[3] / "docs"
SECTION = re.compile(r"^The toolset `(\w+)`")
ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]*?) ?(?:\[([\w, ]+)\] )?\| ")

Row = tuple[str, str, list[str], list[str]]


def names_of(arguments: Iterable[Argument], *, required: bool) -> list[str]:
    return [argument.name for argument in arguments if argument.required is required]


def declared() -> list[Row]:
    """Return each tool with its toolset, its required and its optional arguments."""
    return [
        (toolset, spec.name, names_of(spec.arguments, required=True), names_of(spec.arguments, required=False))
        for toolset in toolset_names()
        for spec in (tool.spec for tool in find_tools([toolset]))
    ]


def documented() -> list[Row]:
    """Read the same from the tables of the section on tools, up to its first subsection."""
    rows: list[Row] = []
    toolset = DEFAULT_TOOLSET
    section = (DOCS / "tools.md").read_text(encoding="utf-8").partition("## Tools\n")[2].partition("\n### ")[0]
    for line in section.splitlines():
        heading, row = SECTION.match(line), ROW.match(line)
        if heading is not None:
            toolset = heading[1]
        elif row is not None:
            required, optional = ([name for name in re.split(r", *", row[part] or "") if name] for part in (2, 3))
            rows.append((toolset, row[1], required, optional))
    return rows


def test_the_page_on_tools_shows_every_tool_in_its_toolset_with_its_arguments() -> None:
    assert documented() == declared()


def test_the_page_on_settings_names_every_toolset() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `AGENTAPI_TOOLSETS`"))
    assert ", ".join(f"`{name}`" for name in toolset_names()) in row


def test_the_default_toolset_is_listed_first_and_every_toolset_has_tools() -> None:
    assert toolset_names()[0] == DEFAULT_TOOLSET
    assert [name for name in toolset_names() if not find_tools([name])] == []


def test_no_two_tools_have_one_name() -> None:
    names = [tool.spec.name for tool in find_tools(toolset_names())]
    assert len(names) == len(set(names))


def test_the_order_of_the_tools_does_not_depend_on_how_the_toolsets_are_given() -> None:
    assert find_tools(tuple(reversed(toolset_names()))) == find_tools(toolset_names())


def test_an_unknown_toolset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"no toolset nothing; there are {', '.join(toolset_names())}"):
        find_tools(["core", "nothing"])


async def loaded_after(program: str) -> set[str]:
    """Return the modules that a new process has loaded after these lines."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"{program}; import sys; print(*sys.modules)", stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return set(out.decode().split())


async def test_a_toolset_that_is_not_enabled_is_not_imported() -> None:
    loaded = await loaded_after(
        "from agentapi_mcp.edges.mcp.tools.registry import find_tools; find_tools(['core', 'admin'])"
    )
    found = {name.partition(f"{toolsets.__name__}.")[2] for name in loaded} - {""}
    assert found == {"admin", "core", "core.chat", "core.reading"}


async def test_the_names_of_the_toolsets_are_found_without_the_sdk_or_any_toolset() -> None:
    loaded = await loaded_after("from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names; toolset_names()")
    assert toolsets.__name__ in loaded
    assert {name for name in loaded if name.startswith(f"{toolsets.__name__}.")} == set()
    assert loaded & {"mcp", "mcp_types"} == set()
