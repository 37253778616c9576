"""The shipped documentation, split into sections."""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from agentapi_mcp.base.errors import ConfigurationError

_PACKAGE = files("agentapi_mcp")
_HEADING = re.compile(r"(#{1,3}) +(.+?) *#*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ASKS = re.compile(r"<!-- *asks:(.*?)-->", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# A label may go on in the next line, and may hold balanced brackets, such as those of a TOML table.
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]\n]|\n(?!\n)|\[[^\[\]\n]*\])+)\]\(([^)\s]+)\)")
_NOT_ANCHOR = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Section:
    """Text under a heading; `asks` are the questions that its author declared it to answer."""

    page: str
    title: str
    heading: str
    body: str
    asks: tuple[str, ...]

    @property
    def source(self) -> str:
        """The page and heading, as shown to a reader."""
        return f"docs/{self.page}" if self.heading == self.title else f"docs/{self.page}#{anchor(self.heading)}"


def anchor(heading: str) -> str:
    """Return the URL fragment of a heading, as GitHub generates it."""
    return _NOT_ANCHOR.sub("", heading.lower()).replace(" ", "-")


def find_documentation(package: Traversable = _PACKAGE) -> Traversable:
    """Find the documentation in the installed package, or else beside the sources.

    Raises:
        ConfigurationError: it is in neither place.
    """
    # A wheel holds docs/ inside the package; an editable install has it at the root of the repository, beside src/.
    places: list[Traversable] = [package / "docs"]
    if isinstance(package, Path):
        places.append(package.parent.parent / "docs")
    for place in places:
        if (place / "index.md").is_file():
            return place
    raise ConfigurationError(
        "The guide's documentation is not installed with this program; reinstall agentapi-mcp from its wheel or clone."
    )


def read_sections(place: Traversable) -> tuple[Section, ...]:
    """Read every page, in a fixed order."""
    return tuple(
        section for name, text in sorted(_pages(place, "")) for section in split_page(name, text) if section.body
    )


def _pages(place: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for item in place.iterdir():
        if item.is_dir():
            yield from _pages(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".md"):
            yield f"{prefix}{item.name}", item.read_text(encoding="utf-8")


def split_page(name: str, text: str) -> Iterator[Section]:
    """Split a page at its headings of the first three levels."""
    title, heading = name, name
    lines: list[str] = []
    fence: str | None = None
    for line in text.splitlines():
        fence = _fence_after(fence, line)
        match = None if fence else _HEADING.match(line)
        if match is None:
            lines.append(line)
            continue
        yield _section(name, title, heading, lines)
        heading, lines = match[2].replace("`", ""), []
        title = heading if match[1] == "#" else title
    yield _section(name, title, heading, lines)


def _fence_after(fence: str | None, line: str) -> str | None:
    match = _FENCE.match(line)
    if match is None:
        return fence
    if fence is None:
        return match[1]
    return None if line.strip().startswith(fence) else fence


def _section(page: str, title: str, heading: str, lines: list[str]) -> Section:
    text = "\n".join(lines)
    asks = tuple(ask.strip() for found in _ASKS.findall(text) for ask in found.split("|") if ask.strip())
    return Section(page, title, heading, _readable(_COMMENT.sub("", text), page), asks)


def _readable(text: str, page: str) -> str:
    """Replace relative links by page names, since an answer has no base URL."""
    folder = posixpath.dirname(page)

    def name_page(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        if "://" in target or target.startswith(("#", "mailto:")):
            return label if target.startswith("#") else match[0]
        path = posixpath.normpath(posixpath.join("docs", folder, target.partition("#")[0]))
        return label if label.strip("`") == path else f"{label} ({path})"

    return _LINK.sub(name_page, text).strip()


def blocks(text: str) -> list[str]:
    """Split a body at blank lines, except inside code fences."""
    found: list[str] = []
    lines: list[str] = []
    fence: str | None = None
    for line in text.splitlines():
        fence = _fence_after(fence, line)
        if line.strip() or fence:
            lines.append(line)
        elif lines:
            found.append("\n".join(lines))
            lines = []
    return [*found, "\n".join(lines)] if lines else found


def _units(text: str) -> list[str]:
    """Return the blocks, each together with those that its colon announces."""
    found: list[str] = []
    for block in blocks(text):
        if found and found[-1].endswith(":"):
            found[-1] += f"\n\n{block}"
        else:
            found.append(block)
    return found


def trimmed(section: Section, budget: int) -> str:
    """Return as many whole blocks as fit, at least one, and a reference to the rest."""
    taken: list[str] = []
    room = budget
    parts = _units(section.body)
    for block in parts:
        room -= len(block)
        if taken and room < 0:
            break
        taken.append(block)
    if len(taken) < len(parts):
        taken.append(f"(The rest is in {section.source}.)")
    return "\n\n".join(taken)
