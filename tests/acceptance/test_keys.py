"""Keys of one's own, at the terminal: entered where nobody sees them, listed without themselves, sealed again."""

import asyncio
import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from secrets import token_bytes
from uuid import uuid4

import pytest

from tests.acceptance.test_processes import environ, run
from tests.support.embedded import SharedHome
from tests.support.terminals import terminal

pytestmark = pytest.mark.acceptance
KEY = "sk-or-v1-canary-0123456789-wxyz"


@pytest.fixture
def own_home() -> Iterator[Path]:
    """Return a home that nobody else seals in: a rotation goes over the whole database."""
    with tempfile.TemporaryDirectory(prefix="mcp-", dir="/tmp", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        home = SharedHome(Path(path) / "home")
        yield home.path
        home.remove()


def master_key() -> str:
    return base64.b64encode(token_bytes(32)).decode()


async def test_a_key_is_added_from_a_pipe_listed_without_itself_turned_off_and_removed(edge_home: Path) -> None:
    env, name = environ(edge_home) | {"AGENTAPI_MASTER_KEY": master_key()}, f"key {uuid4()}"
    said = [await run(env, "keys", "add", "OpenRouter", "--name", name, stdin=f"{KEY}\n")]
    assert said[-1][0] == 0, said
    said.append(await run(env, "keys", "list", "--json"))
    (listed,) = [key for key in json.loads(said[-1][1])["keys"] if key["name"] == name]
    assert (listed["provider"], listed["whose"], listed["last_four"]) == ("openrouter", "user", "wxyz")
    said.append(await run(env, "keys", "deactivate", listed["id"]))
    said.append(await run(env, "keys", "list"))
    assert [line.split("\t")[1:5] for line in said[-1][1].splitlines() if line.startswith(name)] == [
        ["openrouter", "all", "…wxyz", "not used"]
    ]
    said.append(await run(env, "keys", "activate", name))
    said.append(await run(env, "keys", "remove", name))
    assert all(status == 0 for status, _, _ in said), said
    status, _, err = await run(env, "keys", "remove", name)
    assert (status, "keys list" in err) == (2, True)
    assert "canary" not in str(said)


async def test_a_key_is_entered_at_a_prompt_that_does_not_show_it(edge_home: Path) -> None:
    env, name = environ(edge_home) | {"AGENTAPI_MASTER_KEY": master_key()}, f"key {uuid4()}"

    def act() -> tuple[int, str]:
        with terminal(env, "keys", "add", "openrouter", "--organization", "--name", name) as person:
            person.until("API key: ")
            person.type(f"{KEY}\r")
            return person.leave(), person.seen

    status, seen = await asyncio.to_thread(act)
    assert status == 0, seen
    assert "canary" not in seen
    assert name in (await run(env, "keys", "list", "--organization"))[1]
    assert (await run(env, "keys", "remove", "--organization", name))[0] == 0


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        ({}, 3, "has no master key"),
        ({"AGENTAPI_MASTER_KEY": "canary"}, 3, "AGENTAPI_MASTER_KEY: key 1 of 1 is not 32 bytes"),
        ({"AGENTAPI_MASTER_KEY_FILE": "/no/such/canary"}, 3, "AGENTAPI_MASTER_KEY_FILE names a file that cannot"),
        ({"AGENTAPI_MASTER_KEY_COMMAND": "no-such-canary"}, 3, "AGENTAPI_MASTER_KEY_COMMAND names a program"),
    ],
)
async def test_what_stands_in_the_way_of_a_key_is_told_by_its_setting(
    given: dict[str, str], status: int, reason: str, edge_home: Path
) -> None:
    said = await run(environ(edge_home) | given, "keys", "add", "openrouter", stdin=KEY)
    assert (said[0], reason in said[2]) == (status, True), said
    assert "canary" not in str(said)


async def test_what_is_no_key_is_refused_without_repeating_it(edge_home: Path) -> None:
    env = environ(edge_home) | {"AGENTAPI_MASTER_KEY": master_key()}
    for entered in (b"", b"two canary words of it", b"\xff canary"):
        status, out, err = await run(env, "keys", "add", "openrouter", stdin=entered)
        assert (status, "no API key" in err) == (2, True), err
        assert "canary" not in out + err


async def test_rotation_tells_how_many_and_which_master_key_is_not_there(own_home: Path) -> None:
    name, old, new = f"key {uuid4()}", f"old-{uuid4().hex[:8]}:{master_key()}", f"new:{master_key()}"
    env = environ(own_home)
    assert (await run(env | {"AGENTAPI_MASTER_KEY": old}, "keys", "add", "x", "--name", name, stdin=KEY))[0] == 0
    status, _, err = await run(env | {"AGENTAPI_MASTER_KEY": new}, "secrets", "rotate")
    assert (status, f"'{old.partition(':')[0]}'" in err) == (3, True), err
    status, out, err = await run(env | {"AGENTAPI_MASTER_KEY": f"{new},{old}"}, "secrets", "rotate")
    assert (status, "Sealed again: " in out) == (0, True), err
    assert (await run(env | {"AGENTAPI_MASTER_KEY": new}, "secrets", "rotate"))[1] == "Sealed again: 0.\n"
    status, _, err = await run(env | {"AGENTAPI_MASTER_KEY": f"new:{master_key()}"}, "secrets", "rotate")
    assert (status, "1 by 'new' (key " in err, "give it an id of its own" in err) == (3, True, True), err
    assert (await run(env, "keys", "remove", name))[0] == 0
