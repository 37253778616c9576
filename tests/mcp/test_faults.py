"""Whatever an agent does wrong, its caller reads what it was and what to do, and the session goes on."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from mcp_types import CallToolResult

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.backends import registry
from agentapi_mcp.core.errors import FAULT_ADVICE, BackendFault
from agentapi_mcp.mcp.options import McpOptions
from agentapi_mcp.mcp.server import create_server
from agentapi_mcp.settings import Settings
from mcp import Client
from tests.support.connect import call, connect, fields_of, text_of
from tests.support.peers import anthropic, ccrouter, droid, droid_cli, openai
from tests.support.peers.cases import Patience, case_of
from tests.support.peers.http import HttpPeer, Steps

NEVER = ("/srv/", "Traceback", "<html", "xxxxx", "Error from provider", "sk-", "127.0.0.1:9")
Options = dict[str, str]
HASTY = timedelta(seconds=1)


@dataclass(frozen=True)
class Fault:
    """What is told of a word: the fault, whether to try again, and when."""

    kind: BackendFault
    retryable: bool
    retry_after: float | None = None


@dataclass(frozen=True)
class Stand:
    """How a kind of backend stands beside its peer; `prefix` leads from a word to a model of it."""

    peer: Callable[[], HttpPeer]
    options: Callable[[HttpPeer, str, Patience], dict[str, object]]
    words: tuple[str, ...]
    prefix: str


def _is(kind: BackendFault, retry_after: float | None = None) -> Fault:
    return Fault(kind, FAULT_ADVICE[kind].retryable, retry_after)


STANDS = {
    "openai": Stand(lambda: openai.OpenAIPeer(pace=Steps()), openai.options_of, openai.FAULT_WORDS, "stub/"),
    "anthropic": Stand(
        lambda: anthropic.AnthropicPeer(pace=Steps()), anthropic.options_of, anthropic.FAULT_WORDS, "stub-"
    ),
    "ccrouter": Stand(
        lambda: ccrouter.CcrouterPeer(pace=Steps()), anthropic.options_of, anthropic.FAULT_WORDS, "stub,stub-"
    ),
}
# What each word comes to; None is an answer all the same.
COMMON: dict[str, Fault | None] = {
    "e400": _is(BackendFault.BAD_REQUEST),
    "e401": _is(BackendFault.AUTH),
    "e402": _is(BackendFault.PAYMENT),
    "e403": _is(BackendFault.PERMISSION),
    "e404": _is(BackendFault.NOT_FOUND),
    "e429": _is(BackendFault.RATE_LIMIT, 2),
    "e500": _is(BackendFault.UPSTREAM),
    "e502": _is(BackendFault.UPSTREAM),
    "e503": _is(BackendFault.OVERLOADED),
    "e529": _is(BackendFault.OVERLOADED, 2),
    "contextlen": _is(BackendFault.CONTEXT_LENGTH),
    "moderation": _is(BackendFault.CONTENT_POLICY),
    "drop": _is(BackendFault.CONNECTION),
    "cut": _is(BackendFault.STREAM_CUT),
    "badjson": _is(BackendFault.BAD_REPLY),
    "badchunk": _is(BackendFault.BAD_REPLY),
    "nofinish": _is(BackendFault.STREAM_CUT),
    "empty": _is(BackendFault.BAD_REPLY),
    "errchunk": _is(BackendFault.UPSTREAM),
    "leak": _is(BackendFault.AUTH),
    "redirect": _is(BackendFault.BAD_REPLY),
    "hang": _is(BackendFault.TIMEOUT_IDLE),
    "waits": _is(BackendFault.TIMEOUT_IDLE),
    "drip": _is(BackendFault.TIMEOUT_IDLE),
    "nousage": None,
}
EXPECTED: dict[str, dict[str, Fault | None]] = {
    "openai": COMMON
    | {
        "e503": _is(BackendFault.OVERLOADED, 2),
        "quota": _is(BackendFault.PAYMENT),
        "err200": _is(BackendFault.UPSTREAM),
        "typed": _is(BackendFault.RATE_LIMIT),
        "final": Fault(BackendFault.OVERLOADED, retryable=False),
        "later": _is(BackendFault.OVERLOADED, 7),
        "huge": _is(BackendFault.BAD_REPLY),
        "filtered": _is(BackendFault.CONTENT_POLICY),
        "nodone": None,
        "cutlate": None,
    },
    "anthropic": COMMON
    | {
        "credit": _is(BackendFault.PAYMENT),
        "refusal": _is(BackendFault.CONTENT_POLICY),
        "mute": None,
        "lingers": None,
    },
    "ccrouter": COMMON
    | {
        "e529": _is(BackendFault.OVERLOADED),  # the router loses the provider's Retry-After
        "credit": _is(BackendFault.PAYMENT),
        "refusal": _is(BackendFault.CONTENT_POLICY),
        "mute": None,
        "lingers": None,
    },
}
# What a whole reply cannot show, and what it shows otherwise.
WHOLE: dict[str, Fault | None] = {
    "badchunk": None,
    "nofinish": None,
    "mute": None,
    "hang": _is(BackendFault.TIMEOUT_TOTAL),
    "waits": _is(BackendFault.TIMEOUT_TOTAL),
    "drip": _is(BackendFault.TIMEOUT_TOTAL),
}
OF_A_VARIANT = {"google-whole": {"e429": _is(BackendFault.RATE_LIMIT, 12)}}  # what the body says beats the header
SILENT = {"hang", "waits", "drip", "mute"}
SAID_BEFORE = {"cut", "badchunk", "nofinish", "errchunk", "waits"}  # of a stream: what came before the fault
BILLED_BEFORE = {  # where the bill was told before the fault
    "openai": {"filtered", "empty"},
    "anthropic": SAID_BEFORE | {"refusal", "drip"},
    "ccrouter": {"refusal"},
}
BILLED_WHOLE = {
    "openai": {"filtered", "errchunk", "empty"},
    "anthropic": {"refusal", "empty"},
    "ccrouter": {"refusal", "empty"},
}
DROID: dict[str, Fault | None] = {
    **{word: fault for word, fault in COMMON.items() if word[0] == "e" and word[1:].isdigit() and word != "e429"},
    "e529": _is(BackendFault.OVERLOADED),  # the CLI does not hand on when to come back
    "toolong": _is(BackendFault.CONTEXT_LENGTH),
    "leak": _is(BackendFault.AUTH),
    "late": _is(BackendFault.UPSTREAM),
    "cut": _is(BackendFault.STREAM_CUT),
    "drop": _is(BackendFault.CONNECTION),
    "hang": _is(BackendFault.TIMEOUT_IDLE),
    "waits": _is(BackendFault.TIMEOUT_IDLE),
    "drip": _is(BackendFault.TIMEOUT_TOTAL),
    **dict.fromkeys(("answer", "chunks2", *droid_cli.ASKS)),
}
AGENTS = [(kind, variant) for kind in STANDS for variant in case_of(kind).variants]


def test_every_kind_and_every_word_has_its_expectation() -> None:
    outside = {kind for kind in registry.builtin_names() if case_of(kind).unreachable is None}
    assert outside == STANDS.keys() == EXPECTED.keys()
    assert {*outside, "droid", "guide"} == set(registry.builtin_names())
    assert set(droid_cli.WAYS) == DROID.keys()
    for kind, stand in STANDS.items():
        assert set(stand.words) == EXPECTED[kind].keys()


@asynccontextmanager
async def program(home: Path, config: Path | None, environ: Mapping[str, str]) -> AsyncGenerator[Client]:
    settings = Settings(home=home, config=config, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, environ) as app:
        await app.gate.services()
        async with connect(create_server(app.gate, McpOptions()), "stdio-2026") as client:
            yield client


def write_agents(file: Path, kind: str, variant: str, peer: HttpPeer) -> None:
    """Declare an agent of this variant, and one that gives up soon; a model of each is a word."""
    stand = STANDS[kind]
    lines: list[str] = []
    for name, patience in (("patient", Patience()), ("hasty", Patience(idle=HASTY, total=HASTY * 1.5))):
        options = stand.options(peer, variant, patience)
        lines += [f"[agents.{name}]", f'backend = "{kind}"', f"[agents.{name}.options]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in options.items()]
        for word in (*stand.words, "chunks2"):
            lines += [f"[[agents.{name}.models]]", f'name = "{word}"', f'model_id = "{stand.prefix}{word}"']
            lines += ['provider = "stub"']
    file.write_text("\n".join(lines), encoding="utf-8")


def check_failure(result: CallToolResult, fault: Fault, secrets: tuple[str, ...]) -> None:
    turn, text = fields_of(result), text_of(result)
    error = cast("dict[str, object]", turn["error"])
    assert result.is_error
    assert (turn["status"], turn["end_reason"], turn["saved"]) == ("failed", "fault", True)
    assert (error["code"], error["retryable"]) == (fault.kind, fault.retryable)
    assert error["retry_after_seconds"] == fault.retry_after
    step = FAULT_ADVICE[fault.kind].next_step if fault.retryable == FAULT_ADVICE[fault.kind].retryable else ""
    assert str(error["next_step"]).startswith(step)
    assert text.startswith(f"{error['message']}".rstrip("."))
    assert str(turn["next_step"]) in text
    assert str(turn["next_step"]).startswith(str(error["next_step"]))
    assert ("Try again in" in text) is (fault.retry_after is not None)
    assert 0 < len(str(error["message"])) < 400
    everything = result.model_dump_json()
    assert not [word for word in (*NEVER, *secrets) if word in everything]
    assert text.splitlines()[-1].endswith(f"session_id {turn['session_id']} · turn_id {turn['turn_id']}]")


@dataclass(frozen=True)
class Agent:
    """How an agent is made to do what a word says: by its model, or by the message to the default agent."""

    kind: str
    variant: str
    is_default: bool = False

    @property
    def streams(self) -> bool:
        """Whether its answer comes in pieces."""
        return case_of(self.kind).in_pieces(self.variant)

    def asking(self, word: str) -> dict[str, object]:
        """Write the arguments of `chat`."""
        if self.is_default:
            return {"agent": "droid", "message": f"{self.variant} {os.urandom(4).hex()} [[{word}]]"}
        return {"agent": "hasty" if word in SILENT else "patient", "model": word, "message": f"{self.variant} {word}"}

    def expected(self, word: str) -> Fault | None:
        """Tell what a word comes to."""
        others = {} if self.streams else WHOLE
        return {**EXPECTED[self.kind], **others, **OF_A_VARIANT.get(self.variant, {})}[word]

    def reply(self, word: str) -> str:
        """Tell what is said before the fault."""
        if not self.streams or word not in SAID_BEFORE:
            return ""
        whole = word == "nofinish" and self.kind != "openai"
        return "w0 " if word == "waits" else "w0 w1 w2 w3 w4 " if whole else "w0 w1 w2 "


async def check_word(client: Client, agent: Agent, word: str) -> None:
    """Fail, read it in the transcript, and go on in the same session."""
    fault = agent.expected(word)
    result = await call(client, "chat", wait_seconds=30, **agent.asking(word))
    turn = fields_of(result)
    if fault is None:
        assert turn["status"] == "completed", text_of(result)
    else:
        check_failure(result, fault, case_of(agent.kind).secrets)
        assert turn["reply"] == agent.reply(word)
        usage = cast("dict[str, object]", turn["usage"])
        billed = (BILLED_BEFORE if agent.streams else BILLED_WHOLE)[agent.kind]
        assert (usage["input_tokens"] is not None) is (word in billed), usage
        transcript = fields_of(await call(client, "get_transcript", session_id=turn["session_id"]))
        error = cast("dict[str, object]", turn["error"])
        assert str(error["message"]).rstrip(".") in str(transcript["markdown"])
        assert str(error["next_step"]) in str(transcript["markdown"])
    again = await call(client, "chat", session_id=turn["session_id"], **agent.asking("chunks2"))
    assert fields_of(again)["reply"] == "w0 w1 ", text_of(again)


async def check_words(client: Client, agent: Agent, words: Sequence[str], subtests: pytest.Subtests) -> None:
    """Check all at once, since each is a conversation of its own; say of each how it ended."""

    async def attempt(word: str) -> Exception | None:
        try:
            await check_word(client, agent, word)
        except Exception as fault:  # noqa: BLE001  # it is raised again below
            return fault
        return None

    async with asyncio.TaskGroup() as tasks:
        attempts = {word: tasks.create_task(attempt(word)) for word in words}
    for word, ended in attempts.items():
        with subtests.test(word=word):
            if fault := ended.result():
                raise fault


@pytest.mark.parametrize(("kind", "variant"), AGENTS)
async def test_each_fault_is_told_with_its_next_step_and_the_session_goes_on(
    kind: str, variant: str, edge_home: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    config, stand = tmp_path / "agentapi.toml", STANDS[kind]
    async with stand.peer() as peer:
        write_agents(config, kind, variant, peer)
        async with program(edge_home, config, {}) as client:
            await check_words(client, Agent(kind, variant), stand.words, subtests)


async def test_each_fault_of_a_program_is_told_with_its_next_step(edge_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "agentapi.toml"
    async with droid.droid_place() as place:
        env = ", ".join(f"{key} = {json.dumps(value)}" for key, value in cast("Options", place.options["env"]).items())
        lines = ["[agents.cli]", 'backend = "droid"', "[agents.cli.options]", f"env = {{ {env} }}"]
        lines += [f"{key} = {json.dumps(place.options[key])}" for key in ("command", "cwd")]
        lines += ["max_processes = 100", "idle_timeout_seconds = 1", "total_timeout_seconds = 2"]
        for word in DROID:
            lines += ["[[agents.cli.models]]", f'name = "{word}"', f'model_id = "custom:{word}"', 'provider = "stub"']
        config.write_text("\n".join(lines), encoding="utf-8")
        async with program(edge_home, config, {}) as client, asyncio.TaskGroup() as tasks:
            for word, fault in DROID.items():
                tasks.create_task(check_program(client, word, fault))


async def check_program(client: Client, word: str, fault: Fault | None) -> None:
    result = await call(client, "chat", agent="cli", model=word, message=f"{word} {os.urandom(4).hex()}")
    turn = fields_of(result)
    if fault is None:
        assert turn["status"] == "completed", text_of(result)
        assert ("was refused" in str(turn["warning"])) is (word in {"ask", "question"})
    else:
        check_failure(result, fault, (droid.KEY,))
    again = await call(client, "chat", session_id=turn["session_id"], agent="cli", model="chunks2", message="go on")
    assert fields_of(again)["reply"] == "w0 w1 ", text_of(again)


async def test_each_fault_of_openrouter_is_told_by_the_default_agent(
    edge_home: Path, subtests: pytest.Subtests
) -> None:
    async with openai.OpenAIPeer(pace=Steps()) as peer:
        environ = {"OPENROUTER_API_KEY": openai.KEY, "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        async with program(edge_home, None, environ) as client:
            agent = Agent("openai", "openrouter-streamed", is_default=True)
            await check_words(client, agent, [word for word in openai.FAULT_WORDS if word not in SILENT], subtests)
