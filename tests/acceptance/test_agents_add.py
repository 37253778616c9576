"""`agents add` and `agents remove`, as their users run them, with a provider that refuses a wrong key."""

import asyncio
import json
import re
import tomllib
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from typing_extensions import override

from agentapi_mcp.cli import agent_files
from agentapi_mcp.cli.providers import PROVIDERS, Provider
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from tests.acceptance.test_processes import environ, run
from tests.support.databases import Seed
from tests.support.terminals import Terminal, terminal

pytestmark = pytest.mark.acceptance
KEY = "sk-right-0123456789"
MODELS = [
    {"id": "small", "object": "model", "max_model_len": 8192},
    {
        "id": "maker/large",
        "context_length": 131072,
        "pricing": {"prompt": "0.0000025", "completion": "0.00001", "request": "0"},
        "top_provider": {"context_length": 131072, "max_completion_tokens": 16384},
    },
    {"id": "models/routed", "pricing": {"prompt": "-1", "completion": "-1"}},
]
OWN = """# mine
use_defaults = true

[agents.house]  # ours
backend = "openai"

[agents.house.options]
base_url = "http://127.0.0.1:9/v1"
api_key = "sk-inline-0123456789"
# the end
"""


class Lister(HttpPeer):
    """Lists its models to whoever has the key; without one of its own, to everybody."""

    def __init__(self, key: str | None = KEY, models: object = MODELS, public: bool = False) -> None:  # noqa: FBT001, FBT002  # of tests
        super().__init__()
        self.key, self.models, self.public = key, models, public

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        given = exchange.headers.get("authorization", "").removeprefix("Bearer ") or exchange.headers.get("x-api-key")
        path = exchange.path.partition("?")[0]
        if self.key not in {None, given} and not (self.public and path.endswith("/models")):
            await answer.json(401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}})
        elif path == "/v1/key":
            await answer.json(200, {"data": {"limit_remaining": 1}})
        elif path == "/v1/models":
            await answer.json(200, {"object": "list", "data": self.models})
        else:
            await answer.json(404, {"error": {"message": "There is nothing here."}})

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"{self.origin}/v1"


def home_env(home: Path, **more: str) -> dict[str, str]:
    return environ(home) | {"AGENTAPI_CONFIG": str(home / "agents.toml")} | more


def agents_in(home: Path) -> Mapping[str, Any]:
    return cast("dict[str, Any]", tomllib.loads((home / "agents.toml").read_text(encoding="utf-8")).get("agents", {}))


async def at(env: Mapping[str, str], act: Callable[[Terminal], int], *words: str) -> tuple[int, str]:
    """Do something at a terminal, in a thread, while the provider answers here."""

    def do() -> tuple[int, str]:
        with terminal(env, "agents", *words) as person:
            return act(person), person.seen

    return await asyncio.to_thread(do)


async def test_an_agent_is_tried_shown_and_written_with_comments_and_taken_out_again(tmp_path: Path) -> None:
    (tmp_path / "agents.toml").write_text(OWN, encoding="utf-8")
    (tmp_path / "agents.toml").chmod(0o640)
    async with Lister() as peer:
        env = home_env(tmp_path, OPENAI_API_KEY=KEY)
        words = ("agents", "add", "openai", "--base-url", peer.url, "--model", "maker/large", "--model", "small")
        status, out, err = await run(env, *words, "--dry-run")
        assert (status, (tmp_path / "agents.toml").read_text(encoding="utf-8")) == (0, OWN), err
        status, out, err = await run(env, *words, "--yes")
    assert status == 0, err
    text = (tmp_path / "agents.toml").read_text(encoding="utf-8")
    assert text.startswith(OWN)
    assert (KEY in text, [each for each in (KEY, "sk-inline-0123456789", "nobody bills") if each in out + err]) == (
        False,
        [],
    )
    assert "\n+[agents.openai]\n" in out
    assert re.search(r"\[agents\.openai\]\n# OpenAI, by `agentapi-mcp agents add`; docs/.* explains each key\.\n", text)
    assert re.search(r"if it was started with OPENAI_API_KEY\.\n`agentapi-mcp connect --env OPENAI_API_KEY` hands", err)
    agent = agents_in(tmp_path)["openai"]
    assert agent["options"] == {"base_url": peer.url, "api_key": "${OPENAI_API_KEY}", "provider": "openai"}
    assert agent["default_model"] == "maker/large"
    large, small = agent["models"]
    prices = large.pop("prices")
    assert (prices["input"], prices["output"], prices["source"]) == (2.5, 10, "the list of openai")
    expected = {"name": "maker/large", "model_id": "maker/large", "provider": "openai"}
    assert large == expected | {"context_window": 131072, "max_output_tokens": 16384}
    assert small == {"name": "small", "model_id": "small", "provider": "openai", "context_window": 8192}
    status, _, err = await run(env, *words, "--yes")
    assert (status, "has an agent openai already" in err) == (3, True)
    status, out, err = await run(env, "agents", "remove", "openai", "--yes")
    assert status == 0, err
    assert (tmp_path / "agents.toml").read_text(encoding="utf-8") == OWN
    assert oct((tmp_path / "agents.toml").stat().st_mode)[-3:] == "640"


@pytest.mark.parametrize(
    ("words", "key", "status", "said"),
    [
        (("openai",), "sk-wr0ng-0123456789", 1, "Incorrect API key provided"),
        (("openrouter", "--model", "small"), "sk-wr0ng-0123456789", 3, "It does not work"),
        (("openai",), None, 2, "OPENAI_API_KEY is not set here, and nobody can be asked"),
        (("openai", "--key-env", "OTHER"), KEY, 2, "OTHER is not set here"),
        (("openai",), KEY, 2, "Say which model: --model NAME. OpenAI has: small, maker/large, routed."),
        (("openai", "--model", "smal"), KEY, 2, "does not list a model 'smal'; close are: small"),
        (("openai", "--model", "small"), KEY, 2, "Nobody can be asked here whether to write this: say --yes."),
        (("openai", "--key-env", KEY), None, 2, "not the key itself"),
        (("openai", "--model", "small", "--name", "a b", "--force"), KEY, 3, "is no name"),
        (("openai", "--model", "small", "--base-url", "http://u:wr0ng@x/v1", "--force"), KEY, 3, "must not hold"),
        (("litellm",), None, 1, "Set LITELLM_API_KEY."),
        (("azure",), KEY, 2, "say --base-url"),
        (("openai",), "two\nlines", 3, "api_key must be printable ASCII"),
        (("vllm",), None, 1, "Say --key-env NAME for its key."),
        (("vllm", "--key-env", "OTHER"), None, 2, "OTHER is not set here"),
    ],
)
async def test_what_cannot_be_added_is_told_and_nothing_is_written(
    words: tuple[str, ...], key: str | None, status: int, said: str, tmp_path: Path
) -> None:
    async with Lister(public=words[0] == "openrouter") as peer:
        variable = PROVIDERS[words[0]].key_variable or ""
        env = home_env(tmp_path) | ({variable: key} if key is not None else {})
        place = () if words[0] == "azure" else ("--base-url", peer.url)
        yes = ("--yes",) if status in {1, 3} else ()
        found, out, err = await run(env, "agents", "add", *place, *words, *yes)
    assert (found, said in err, "wr0ng" in out + err) == (status, True, False), err
    assert not (tmp_path / "agents.toml").exists()


async def test_a_server_of_this_machine_needs_no_key_and_gives_all_of_its_models(tmp_path: Path) -> None:
    async with Lister(key=None) as peer:
        env = home_env(tmp_path)
        status, _, err = await run(env, "agents", "add", "ollama", "--name", "my.box", "--base-url", peer.url, "--yes")
        assert status == 0, err
        agent = agents_in(tmp_path)["my.box"]
        assert [each["name"] for each in agent["models"]] == ["small", "maker/large", "routed"]
        assert ["prices" in each for each in agent["models"]] == [False, True, False]
        more = {"idle_timeout_seconds": 600, "stops_billing": True}
        assert agent["options"] == {"base_url": peer.url, "provider": "ollama"} | more
        assert "set context_window of each model" in err
        assert "add `prices = { input = 0, output = 0 }` to each" in err
        assert "a running server has it in 2 s.\n" in err
        here = Provider(title="Here", base_url=peer.url)
        assert await agent_files.state_of("here", here, {}) == f"answers at {peer.url}: small, maker/large, routed"
        peer.models = []
        status, _, err = await run(env, "agents", "add", "vllm", "--base-url", peer.url, "--yes")
        assert (status, "has no model yet" in err) == (2, True)
        url = peer.url
    assert await agent_files.state_of("here", here, {}) == f"does not answer at {url}"
    status, _, err = await run(env, "agents", "add", "vllm", "--base-url", url, "--yes")
    assert (status, "Start vLLM, or say --base-url" in err, "Nothing was written." in err) == (1, True, True)
    status, _, err = await run(env, "agents", "add", "vllm", "--base-url", url, "--yes", "--force", "--model", "m")
    assert status == 0, err
    assert agents_in(tmp_path)["vllm"]["default_model"] == "m"


async def test_what_answers_on_a_port_is_told_for_what_it_is(tmp_path: Path) -> None:
    async with Lister() as peer:
        here = Provider(title="Here", base_url=peer.url, key_variable="HERE_KEY")
        said = f"answers at {peer.url}, and wants a key: HERE_KEY is not set"
        assert await agent_files.state_of("here", here, {}) == said
        assert "small" in await agent_files.state_of("here", here, {"HERE_KEY": KEY})
        other = Provider(title="Here", base_url=peer.origin, key_variable="HERE_KEY")
        assert (
            await agent_files.state_of("here", other, {"HERE_KEY": KEY}) == f"something else answers at {peer.origin}"
        )
    async with Lister(key=None) as peer:
        words = ("agents", "add", "vllm", "--base-url", peer.origin, "--yes")
        status, _, err = await run(home_env(tmp_path), *words)
        assert (status, "What answers there is not vLLM" in err, "Start" in err) == (1, True, False), err


async def test_what_cannot_be_declared_is_left_out_and_what_cannot_chat_is_no_default(tmp_path: Path) -> None:
    ids = ["nomic-embed-text", "i" * 300, "hidden\u202e", "bge-m3", "small", "small"]
    async with Lister(key=None, models=[{"id": each} for each in ids]) as peer:
        status, _, err = await run(home_env(tmp_path), "agents", "add", "vllm", "--base-url", peer.url, "--yes")
        assert status == 0, err
        assert "No model was asked, and nothing was billed." in err
        agent = agents_in(tmp_path)["vllm"]
        assert agent["default_model"] == "small"
        assert [each["name"] for each in agent["models"]] == ["small", "nomic-embed-text", "bge-m3"]
        peer.models = [{"id": f"m{number}"} for number in range(600)]
        words = ("--base-url", peer.url, "--name", "guide", "--yes")
        status, _, err = await run(home_env(tmp_path), "agents", "add", "vllm", *words)
        assert "It has 600 models; 50 are declared." in err
        assert "takes the place of the agent guide" in err
        status, _, err = await run(home_env(tmp_path), "models", "sync", "guide", "--all", "--yes")
        assert "The list has 550 others; 500 are added." in err


async def test_the_list_is_asked_for_as_the_backend_asks(tmp_path: Path) -> None:
    async with Lister() as peer:
        text = SYNCED.replace("[[agents", 'api_key_header = "x-api-key"\nheaders = { x-team = "house" }\n\n[[agents', 1)
        (tmp_path / "agents.toml").write_text(text % peer.url, encoding="utf-8")
        status, _, err = await run(home_env(tmp_path, HOUSE_KEY=f"{KEY}\n"), "models", "sync", "house", "--yes")
        assert status == 0, err
        [asked] = peer.exchanges
        assert (asked.headers.get("x-api-key"), asked.headers.get("x-team")) == (KEY, "house")
        azure = (text % peer.url).replace("api_key_header", 'provider = "azure"\napi_key_header')
        (tmp_path / "agents.toml").write_text(azure, encoding="utf-8")
        status, _, err = await run(home_env(tmp_path, HOUSE_KEY=KEY), "models", "sync", "house", "--yes")
        assert (status, "Azure lists what can be deployed" in err) == (1, True), err


async def test_a_key_is_entered_unseen_and_kept_nowhere_without_a_master_key(tmp_path: Path) -> None:
    async with Lister() as peer:

        def act(person: Terminal) -> int:
            person.until("API key of Mistral: ")
            person.type(f"{KEY}\r")
            place = person.until("Mistral has: small")
            place = person.until("Model: ", after=place)
            person.type("small\r")
            person.until("agents.toml? [Y/n]", after=place)
            person.type("y\r")
            return person.leave()

        status, seen = await at(home_env(tmp_path), act, "add", "mistral", "--base-url", peer.url)
    assert status == 0, seen
    assert KEY not in seen + (tmp_path / "agents.toml").read_text(encoding="utf-8")
    assert oct((tmp_path / "agents.toml").stat().st_mode)[-3:] == "600"
    assert "The key is kept nowhere: set MISTRAL_API_KEY" in seen
    assert agents_in(tmp_path)["mistral"]["options"]["api_key"] == "${MISTRAL_API_KEY}"


async def test_a_key_that_was_entered_is_sealed_where_there_is_a_master_key(seed: Seed, tmp_path: Path) -> None:
    async with seed.started("add-") as server, Lister() as peer:
        master_key = b64encode(bytes(range(32))).decode()
        env = home_env(tmp_path, AGENTAPI_HOME=str(server.home), AGENTAPI_MASTER_KEY=master_key)

        def act(person: Terminal) -> int:
            person.until("API key of Mistral: ")
            person.type(f"{KEY}\r")
            return person.leave()

        words = ("add", "mistral", "--base-url", peer.url, "--model", "small", "--yes")
        status, seen = await at(env, act, *words)
        assert status == 0, seen
        assert "Sealed the key as yours for mistral" in seen
        status, out, _ = await run(env, "keys", "list", "--json")
        assert [(key["provider"], key["last_four"]) for key in json.loads(out)["keys"]] == [("mistral", KEY[-4:])]
        status, out, _ = await run(env, "agents", "list", "--json")
        mine = next(agent for agent in json.loads(out)["agents"] if agent["name"] == "mistral")
        assert mine["missing"] == []


async def test_a_deployment_is_asked_for_since_no_list_tells_it(tmp_path: Path) -> None:
    async with Lister() as peer:

        def act(person: Terminal) -> int:
            person.until("Model, or deployment: ")
            person.type("our-gpt\r")
            return person.leave()

        env = home_env(tmp_path, AZURE_OPENAI_API_KEY=KEY)
        peer.key = None  # Azure's own header is no matter here
        status, seen = await at(env, act, "add", "azure", "--base-url", peer.url, "--yes")
    assert status == 0, seen
    assert agents_in(tmp_path)["azure"]["default_model"] == "our-gpt"


async def test_a_file_with_a_byte_order_mark_keeps_it(tmp_path: Path) -> None:
    file, text = tmp_path / "agents.toml", "\ufeff" + OWN
    file.write_text(text, encoding="utf-8")
    async with Lister(key=None) as peer:
        env = home_env(tmp_path)
        for words in (("agents", "add", "vllm", "--base-url", peer.url), ("models", "sync", "vllm", "--all")):
            status, _, err = await run(env, *words, "--yes")
            assert (status, file.read_text(encoding="utf-8").startswith(text)) == (0, True), err
        assert (await run(env, "agents", "remove", "vllm", "--yes"))[0] == 0
    assert file.read_text(encoding="utf-8") == text
    file.unlink()
    file.symlink_to(file)
    status, _, err = await run(env, "agents", "remove", "vllm", "--yes")
    assert (status, "cannot be read" in err, "Traceback" in err) == (3, True, False)


async def test_an_agent_that_no_file_declares_any_more_is_listed_where_all_are_asked_for(
    tmp_path: Path, edge_home: Path
) -> None:
    file, name = tmp_path / "agents.toml", f"a{uuid4().hex[:8]}"
    env = home_env(tmp_path) | {"AGENTAPI_HOME": str(edge_home)}
    listed = list[tuple[bool, bool]]()
    for text in (OWN.replace("house", name), ""):
        file.write_text(text, encoding="utf-8")
        outs = [(await run(env, "agents", "list", *words))[1] for words in ((), ("--all",))]
        listed.append((name in outs[0], name in outs[1]))
    assert listed == [(True, True), (False, True)]


async def test_a_person_may_say_no(tmp_path: Path) -> None:
    (tmp_path / "agents.toml").write_text(OWN, encoding="utf-8")

    def act(person: Terminal) -> int:
        person.until("agents.toml? [Y/n]")
        person.type("n\r")
        return person.leave()

    status, seen = await at(home_env(tmp_path), act, "remove", "house")
    assert (status, "Nothing was written." in seen) == (0, True), seen
    assert (tmp_path / "agents.toml").read_text(encoding="utf-8") == OWN


@pytest.mark.parametrize(
    ("text", "name", "status", "said"),
    [
        (
            OWN,
            "hause",
            2,
            "There is no agent 'hause'. The configuration file declares: ccrouter, droid, guide, house; no file",
        ),
        (OWN, "guide", 3, "comes with the program"),
        ("[agents.x]\nbackend = 5\n", "x", 3, "line 2"),
        ("", "x", 2, "no file declares, but the database knows: "),
    ],
)
async def test_what_cannot_be_taken_out_is_told(
    text: str, name: str, status: int, said: str, tmp_path: Path, edge_home: Path
) -> None:
    (tmp_path / "agents.toml").write_text(text, encoding="utf-8")
    env = home_env(tmp_path) | {"AGENTAPI_HOME": str(edge_home)}  # whose database knows agents of other files
    found, _, err = await run(env, "agents", "remove", name, "--yes")
    assert (found, said in err) == (status, True), err
    assert (tmp_path / "agents.toml").read_text(encoding="utf-8") == text


async def test_without_a_provider_all_are_listed(tmp_path: Path) -> None:
    status, out, err = await run(home_env(tmp_path, GROQ_API_KEY="x"), "agents", "add")
    assert status == 0, err
    states = {line.split("\t")[0]: line.split("\t")[2] for line in out.splitlines()[1:]}
    assert states.keys() == PROVIDERS.keys()
    assert (states["groq"], states["openai"]) == ("GROQ_API_KEY is set", "OPENAI_API_KEY is not set")
    assert "answer" in states["ollama"]


SYNCED = """# mine
[agents.house]
backend = "openai"
default_model = "large"

[agents.house.options]
base_url = "%s"
api_key = "${HOUSE_KEY}"

[[agents.house.models]]
name = "large"  # what people call it
model_id = "maker/large"
provider = "house"
context_window = 10
prices = { input = 1, cached_input = 0.5, source = "page #3", on = 2026-01-02 }  # the provider's page

[[agents.house.models]]
name = "old"
model_id = "retired"
provider = "house"

[agents.other]  # after it
backend = "guide"

[agents.command]
backend = "droid"
"""


async def test_models_are_brought_from_the_providers_list_and_comments_stay(tmp_path: Path) -> None:
    async with Lister() as peer:
        text, file = SYNCED % peer.url, tmp_path / "agents.toml"
        file.write_text(text, encoding="utf-8")
        env = home_env(tmp_path, HOUSE_KEY=KEY)
        words = ("models", "sync", "house")
        status, out, err = await run(env, *words)
        assert (status, "say --yes" in err, file.read_text(encoding="utf-8")) == (2, True, text)
        assert "+context_window = 131072" in out
        status, _, err = await run(env, *words, "--yes")
        assert status == 0, err
        assert "left as they are: old." in err
        written = file.read_text(encoding="utf-8")
        kept = [line for line in text.splitlines() if not line.startswith(("context_window", "prices"))]
        assert [line for line in kept if line not in written.splitlines()] == []
        large, old = agents_in(tmp_path)["house"]["models"]
        assert (large["name"], large["context_window"], large["max_output_tokens"]) == ("large", 131072, 16384)
        prices = large["prices"]
        assert (prices["input"], prices["output"], prices["cached_input"]) == (2.5, 10, 0.5)
        assert "  # the provider's page\n" in written
        assert large["prices"]["source"] == "the list of house, but for cached_input"
        assert old.keys() == {"name", "model_id", "provider"}
        written = re.sub(r"on = [\d-]+", "on = 2026-01-02", written)  # a day alone is no reason to write
        file.write_text(written, encoding="utf-8")
        status, _, err = await run(env, *words, "--yes")
        assert (status, "nothing was changed" in err) == (0, True)
        assert file.read_text(encoding="utf-8") == written
        status, _, err = await run(env, *words, "--all", "--yes")
        assert status == 0, err
        names = [each["name"] for each in agents_in(tmp_path)["house"]["models"]]
        assert names == ["large", "old", "small", "routed"]


async def test_the_list_is_asked_for_as_the_agent_is(tmp_path: Path) -> None:
    """Of a key in a header of its own, and of an address that was pasted whole."""
    async with Lister() as peer:
        text = (SYNCED % f"{peer.url}/chat/completions").replace(
            'api_key = "${HOUSE_KEY}"', 'api_key = "${HOUSE_KEY}"\napi_key_header = "x-api-key"'
        )
        (tmp_path / "agents.toml").write_text(text, encoding="utf-8")
        status, _, err = await run(home_env(tmp_path, HOUSE_KEY=KEY), "models", "sync", "house", "--yes")
        assert status == 0, err
        assert agents_in(tmp_path)["house"]["models"][0]["context_window"] == 131072


@pytest.mark.parametrize(
    ("name", "more", "status", "said"),
    [
        ("hause", {}, 2, "has no agent 'hause'; there are: house"),
        ("droid", {}, 3, "comes with the program"),
        ("other", {}, 3, "of the kind guide have no list of models"),
        ("command", {}, 3, "of the kind droid have no list of models"),
        ("house", {}, 2, "HOUSE_KEY is not set"),
        ("house", {"HOUSE_KEY": "sk-wr0ng-0123456789"}, 1, "Incorrect API key provided"),
    ],
)
async def test_what_cannot_be_synced_is_told(
    name: str, more: dict[str, str], status: int, said: str, tmp_path: Path
) -> None:
    async with Lister() as peer:
        (tmp_path / "agents.toml").write_text(SYNCED % peer.url, encoding="utf-8")
        found, out, err = await run(home_env(tmp_path, **more), "models", "sync", name, "--yes")
        assert (found, said in err, "wr0ng" in out + err) == (status, True, False), err
        assert (tmp_path / "agents.toml").read_text(encoding="utf-8") == SYNCED % peer.url


async def test_a_model_that_the_file_cannot_hold_is_left_out(tmp_path: Path) -> None:
    async with Lister(models=[{"id": "i" * 300}, {"id": "a\ud800b"}]) as peer:
        file = tmp_path / "agents.toml"
        file.write_text(SYNCED % peer.url, encoding="utf-8")
        env = home_env(tmp_path, HOUSE_KEY=KEY)
        status, _, err = await run(env, "models", "sync", "house", "--all", "--yes")
        assert (status, "nothing was changed" in err) == (0, True), err
        assert file.read_text(encoding="utf-8") == SYNCED % peer.url
