"""Newcomers' questions find the section that answers them: the quality of the search is a test."""

import re
from functools import cache

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.backends.guide.index import Index
from agentapi_mcp.backends.guide.pages import Section, find_documentation, read_sections
from agentapi_mcp.core.backends.events import TextDelta
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.peers.cases import backend_turn

ANSWERED_BY = {
    "docs/agents.md#what-the-status-says": ["what does degraded mean"],
    "docs/agents.md#which-agent-answers": ["what is the default agent"],
    "docs/providers/gemini.md#add-gemini": ["can I use Gemini?"],
    "docs/providers/vertex.md#add-vertex-ai": ["how to use vertex ai"],
    "docs/configuration.md#an-agent": ["how do i add my own agent", "how do I deactivate an agent"],
    "docs/configuration.md#environment": ["set environment variable"],
    "docs/configuration.md#where-the-file-is": ["where is the config file"],
    "docs/how-to/use-your-own-postgres.md#point-it-to-a-database": ["can I use my own Postgres database?"],
    "docs/supabase.md#make-a-login": ["which grants does it need on supabase"],
    "docs/supabase.md#direct-connection-or-pooler": ["does it work with the supabase transaction pooler"],
    "docs/supabase.md#what-the-migration-changes-in-your-database": ["will it change my existing tables"],
    "docs/supabase.md#start-the-server-on-supabase": ["supabase"],
    "docs/index.md#what-it-needs-and-what-not": ["does it need docker"],
    "docs/security.md#what-an-agent-can-do-on-your-machine": ["can it read my files", "can the agent call tools"],
    "docs/troubleshooting.md#answers-are-slow": ["how do I make it faster", "why so slow"],
    "docs/troubleshooting.md#the-program-is-too-old-for-the-database": ["can I upgrade from an old version"],
    "docs/turns.md#streaming-and-progress": ["does it support streaming"],
    "docs/commands.md#chat": [
        "how do I use it in a shell script",
    ],
    "docs/commands.md#tokens": [
        "how do I make a token?",
    ],
    "docs/commands.md#migrate": [
        "how do I run the migrations",
    ],
    "docs/cost.md#spend-less": [
        "how can I save money",
        "can I set a spending limit",
    ],
    "docs/cost.md#what-is-free": [
        "is there something free?",
    ],
    "docs/cost.md#when-the-cost-is-unknown": [
        "why is the cost null",
    ],
    "docs/cost.md#where-the-cost-comes-from": [
        "how are costs computed?",
    ],
    "docs/getting-started.md#install-it-without-a-clone": [
        "how do I install this",
    ],
    "docs/getting-started.md#which-systems-it-runs-on": [
        "does this work on windows?",
    ],
    "docs/how-to/add-a-local-model.md#lm-studio-vllm-and-other-servers": [
        "does LM Studio work with this?",
        "connect vllm",
    ],
    "docs/how-to/add-a-local-model.md#ollama": [
        "how do i use ollama",
        "I want to run a model on my own computer",
    ],
    "docs/how-to/add-openrouter.md#choose-a-model-of-openrouter": [
        "can I use another model from openrouter that isn't listed",
    ],
    "docs/how-to/add-openrouter.md#set-the-key": [
        "How can I set up OpenRouter?",
        "I have an OpenRouter account, what now?",
    ],
    "docs/how-to/connect-a-client.md#claude-code": [
        "claude code setup",
    ],
    "docs/how-to/connect-a-client.md#claude-desktop": [
        "How do I add this to Claude Desktop?",
    ],
    "docs/how-to/connect-a-client.md#codex": [
        "What do I put in Codex's config.toml?",
    ],
    "docs/how-to/connect-a-client.md#cursor": [
        "cursor configuration",
    ],
    "docs/how-to/connect-a-client.md#several-clients-at-once": [
        "can two IDEs use it at the same time?",
    ],
    "docs/how-to/connect-a-client.md#vs-code": [
        "How do I configure VS Code?",
        "vscode copilot",
    ],
    "docs/how-to/connect-a-client.md#when-the-client-does-not-show-the-tools": [
        "uvx not found",
    ],
    "docs/index.md#the-words-used-here": [
        "what is a turn?",
        "what's the difference between agent and model",
    ],
    "docs/index.md#what-this-version-cannot-do-yet": [
        "what is not supported yet",
        "are there organisations",
    ],
    "docs/how-to/serve.md#start-it": [
        "is http supported",
        "run as a network server",
    ],
    "docs/backends/ccrouter.md#recipe": [
        "does claude-code-router work",
        "set up ccrouter",
    ],
    "docs/how-to/redis.md#what-it-is-for": [
        "do I need redis",
    ],
    "docs/how-to/backup-and-uninstall.md#back-up": [
        "how do I backup the database?",
    ],
    "docs/how-to/backup-and-uninstall.md#move-to-another-machine-or-to-your-own-postgres": [
        "how do I move my sessions to a new laptop",
    ],
    "docs/how-to/backup-and-uninstall.md#restore": [
        "how do I restore from a backup",
    ],
    "docs/how-to/backup-and-uninstall.md#uninstall": [
        "how do I uninstall it",
        "how do I get rid of it",
    ],
    "docs/how-to/organization.md#what-can-be-set": [
        "how do I restrict models for my team?",
    ],
    "docs/how-to/sign-in.md#set-it-up": [
        "how can people sign in",
    ],
    "docs/design/architecture.md#where-new-code-goes": [
        "how do I add a tool?",
        "how do I add a migration",
    ],
    "docs/backends/write-a-backend.md#in-this-repository": [
        "how do I contribute a backend to this repository",
    ],
    "docs/design/architecture.md#which-tests-to-run": [
        "which tests should I run after a change",
    ],
    "docs/how-to/deploy.md#with-containers": [
        "docker compose",
    ],
    "docs/security.md#secrets": [
        "where does my api key go",
        "are my api keys safe?",
    ],
    "docs/security.md#what-is-kept-and-where": [
        "where is my data stored?",
        "where is the database stored?",
    ],
    "docs/security.md#who-can-reach-the-server": [
        "does it open a port on my network?",
    ],
    "docs/security.md#who-sees-whose-sessions": [
        "can my colleagues read my conversations",
    ],
    "docs/sessions.md#continue-a-conversation": [
        "how do I continue yesterday's conversation",
    ],
    "docs/sessions.md#delete-a-conversation": [
        "delete my history",
    ],
    "docs/sessions.md#export-a-conversation": [
        "export a conversation to a file",
        "download my chat as json",
    ],
    "docs/sessions.md#list-and-search-sessions": [
        "where can I see my old chats?",
    ],
    "docs/sessions.md#read-a-transcript": [
        "how do I read the transcript of a session?",
    ],
    "docs/sessions.md#rename-a-session": [
        "how do I rename a chat",
    ],
    "docs/troubleshooting.md#auth-the-provider-refused-the-key": [
        "I get a 401",
    ],
    "docs/troubleshooting.md#cancelled-the-turn-was-cancelled": [
        "my turn was cancelled but I didn't cancel it",
    ],
    "docs/troubleshooting.md#context_length-the-conversation-is-too-long": [
        "context length exceeded",
    ],
    "docs/troubleshooting.md#payment-the-account-has-no-credit": [
        "the provider says I have no credits",
    ],
    "docs/troubleshooting.md#postgres-does-not-start": [
        "postgres won't start",
    ],
    "docs/troubleshooting.md#rate_limit-too-many-requests": [
        "rate limit exceeded",
    ],
    "docs/turns.md#a-session-that-is-busy": [
        "why does it say that a turn is already running",
    ],
    "docs/turns.md#after-a-crash-or-restart": [
        "what happens to my answer if the server crashes",
    ],
    "docs/turns.md#cancelling-a-turn": [
        "how do I cancel a turn",
        "stop a running answer",
    ],
    "docs/turns.md#changing-agent-or-model-within-a-conversation": [
        "can I switch models in the middle of a conversation?",
    ],
    "docs/turns.md#parameters-of-one-turn": [
        "how do I set the temperature",
    ],
    "docs/turns.md#sending-the-same-message-twice": [
        "will I be charged twice if I retry?",
        "idempotency_key",
    ],
    "docs/turns.md#the-status-of-a-turn": [
        "What does the status interrupted mean?",
    ],
    "docs/turns.md#waiting-for-a-long-answer": [
        "the answer takes five minutes, how do I wait for it?",
        "what is wait_seconds",
    ],
    "docs/turns.md#when-your-client-times-out": [
        "my client timed out, did I lose the answer?",
        "what happens if I close my laptop while it is answering",
    ],
}
# What the documentation of this server has no answer to.
UNANSWERABLE = [
    "what is the capital of France?",
    "write me a poem about the sea",
    "who won the football match yesterday",
    "translate this sentence into German",
    "fix the bug in my javascript function",
    "how do I cook rice",
    "what's the weather today",
    "explain quantum mechanics",
    "write a python function that reverses a list",
    "book me a flight to Rome",
    "¿Cómo agrego una clave?",
    "Wie füge ich ein Modell hinzu?",
]


@cache
def shipped() -> Index:
    return Index(read_sections(find_documentation()))


async def answer(question: str) -> str:
    guide = registry.create("guide", {}, FakeHost())
    events = [event async for event in guide.run(backend_turn(question, model_id=None))]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("question", "source"), [(question, source) for source, asked in ANSWERED_BY.items() for question in asked]
)
async def test_the_answer_has_the_section_that_answers_the_question(question: str, source: str) -> None:
    assert f"({source})\n\n" in await answer(question)


@pytest.mark.parametrize("question", UNANSWERABLE)
async def test_the_guide_says_that_it_has_no_answer_to_a_question_about_something_else(question: str) -> None:
    said = await answer(question)
    assert said.startswith("I found nothing in the documentation that answers this. I am not a language model")


def test_every_question_that_an_author_foresaw_finds_its_section() -> None:
    def is_found(section: Section, ask: str) -> bool:
        return section in [match.section for match in shipped().search(ask)[:2]]

    assert not [
        (ask, section.source) for section in shipped().sections for ask in section.asks if not is_found(section, ask)
    ]


def test_no_section_is_shown_with_a_relative_link() -> None:
    relative = re.compile(r"\]\((?!https?://|mailto:)[^)\s]+\)")
    assert not [(section.source, found) for section in shipped().sections for found in relative.findall(section.body)]
