"""Each threat of SECURITY.md names tests that are there, and says what is not defended."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
THREATS = (
    "The curious tenant",
    "The stolen token",
    "The malicious client",
    "The malicious backend",
    "The other account of the machine",
    "The prompt that asks for another's transcript",
    "The web page that reaches loopback",
    "The dump of the database",
)


def sections() -> dict[str, str]:
    """Split the page into its threats."""
    parts = re.split(r"^### (.+)$", PAGE.partition("\n## Dependencies")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # The contract of backends is a class.
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_threat_is_there_with_what_is_not_defended() -> None:
    assert tuple(sections()) == THREATS
    assert [name for name, text in sections().items() if "\nNot defended: " not in text] == []


def test_every_threat_names_tests_that_are_there() -> None:
    for threat, text in sections().items():
        named = re.findall(r"`((?:tests|src)/[\w/]+\.py)::(\w+)`", text)
        assert named, threat
        assert [(path, name) for path, name in named if name not in names_in(ROOT / path)] == [], threat
