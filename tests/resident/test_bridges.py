"""Clients over stdio that share a resident server, and what they see when it or they end."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from agentapi_mcp.base.long_lines import LONGEST_LINE
from agentapi_mcp.resident.place import Place
from agentapi_mcp.resident.protocol import NUMBER, Hello
from agentapi_mcp.testing.http import Steps
from tests.support.databases import Seed
from tests.support.embedded import SharedHome
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import COMPLETIONS, Clients, LineClient, asked, clients, environ, place_of
from tests.support.waiting import wait_until

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}

pytestmark = pytest.mark.acceptance
HELLO_LINES = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":"t","version":"1"}}}\n{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
)
ENDED = "The server of agentapi-mcp ended while this call ran"


def slow() -> str:
    """Return a message of this test alone, that is answered step by step."""
    return f"{uuid4()} [[slow]] [[chunks4]]"


async def in_a_session(client: LineClient) -> dict[str, object]:
    """Return such a message in a session, where it is a retry from the first moment and no parallel sample."""
    client.call(1, "chat", agent="droid", message=f"{uuid4()} hello")
    return {"session_id": (await client.turn(1))["session_id"], "message": slow()}


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


async def test_clients_of_one_environment_share_a_server(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        first = await here.greeted(env)
        pid = here.pid()
        second = await here.greeted(env | {"TERM": "of this client", "DATABASE_URL": "postgresql://projects"})
        for client in (first, second):
            assert (await client.called(1, "list_agents"))["structuredContent"]["agents"]
        assert here.pids() == [pid]
        assert os.fsencode("projects") not in environment_of(pid)
        assert [await client.end() for client in (first, second)] == [0, 0]
        assert second.process.stderr is not None
        assert await second.process.stderr.read() == (
            b"agentapi-mcp: DATABASE_URL is not read over stdio: set AGENTAPI_DATABASE_URL.\n"
        )
        assert here.pids() == [pid]


async def test_twenty_bridges_at_once_start_one_server(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        started = [await here.start(env) for _ in range(20)]
        async with asyncio.TaskGroup() as group:
            for client in started:
                group.create_task(client.shake_hands())
        assert len(here.pids()) == 1


async def test_two_values_of_a_key_are_two_servers(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            for key in ("sk-or-v1-one", "sk-or-v1-two"):
                client = await here.greeted(env | {"OPENROUTER_API_KEY": key})
                client.call(1, "chat", agent="droid", message=f"{uuid4()} hello")
                assert (await client.turn(1))["status"] == "completed"
            assert len(here.pids()) == 2
            keys = [each.headers["authorization"] for each in peer.exchanges if each.path == COMPLETIONS]
            assert keys == ["Bearer sk-or-v1-one", "Bearer sk-or-v1-two"]


async def test_toolsets_of_the_command_line_reach_the_server(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        client = await here.start(env, "--toolsets", "core,admin")
        await client.shake_hands()
        few = await here.greeted(env)
        many, usual = [len((await each.ask("tools/list", {}, 1))["result"]["tools"]) for each in (client, few)]
        assert many > usual


@pytest.mark.parametrize("end", ["stdin", "SIGTERM", "SIGKILL"])
async def test_a_turn_outlives_its_client_and_the_same_message_gets_it(end: str, edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.greeted(env)
            message = await in_a_session(client)
            client.call(2, "chat", **message)
            await peer.received(2, path=COMPLETIONS)
            if end == "stdin":
                assert await client.end() == 0
            else:
                client.process.send_signal(signal.Signals[end])
                await client.process.wait()
            again = await here.greeted(env)
            again.call(1, "chat", **message)
            steps.release(50)
            turn = await again.turn(1)
            assert (turn["status"], turn["joined"]) == ("completed", True)
            assert asked(peer) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_what_a_client_cancels_while_it_ends_is_stopped(number: signal.Signals, edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.greeted(env)
            client.call(1, "chat", agent="droid", message=slow())
            exchange = await peer.received(1, path=COMPLETIONS)
            client.process.send_signal(number)
            client.say("notifications/cancelled", {"requestId": 1, "reason": "AbortError: user-cancel"})
            await exchange.gone.wait()
            assert await client.process.wait() == -number


async def test_what_a_client_cancels_before_it_goes_away_is_stopped(edge_home: Path) -> None:
    ours, theirs = os.pipe()
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.start(env, stdout=theirs)
            os.close(theirs)
            client.say("initialize", HELLO, 0)
            client.say("notifications/initialized")
            client.call(1, "chat", agent="droid", message=slow())
            exchange = await peer.received(1, path=COMPLETIONS)
            client.process.send_signal(signal.SIGSTOP)  # it finds both at once
            client.say("notifications/cancelled", {"requestId": 1, "reason": "MCP request cancelled by caller"})
            os.close(ours)
            client.process.send_signal(signal.SIGCONT)
            await exchange.gone.wait()
            assert asked(peer) == 1


async def test_a_turn_that_ended_after_its_client_is_given_to_who_asks_again(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.greeted(env)
            message = await in_a_session(client)
            client.call(2, "chat", **message)
            exchange = await peer.received(2, path=COMPLETIONS)
            client.process.kill()
            await client.process.wait()
            steps.release(50)
            await exchange.ended.wait()
            again = await here.greeted(env)
            again.call(1, "chat", **message)
            turn = await again.turn(1)
            assert (turn["status"], turn["joined"]) == ("completed", True)
            assert asked(peer) == 2


@pytest.mark.parametrize("who", ["bridge", "client"])
async def test_an_answer_that_its_client_never_got_is_given_to_who_asks_again(who: str, edge_home: Path) -> None:
    ours, theirs = os.pipe()
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.start(env, stdout=theirs)
            os.close(theirs)
            reply = {"agent": "droid", "message": f"{uuid4()} {'long ' * 30_000}[[echo]]"}
            client.say("initialize", HELLO, 0)
            client.say("notifications/initialized")
            await asyncio.to_thread(os.read, ours, 60_000)
            # Its answer is more than a pipe takes, so that the rest of it waits in the bridge or the socket.
            client.call(1, "chat", **reply)
            await asyncio.to_thread(os.read, ours, 1)
            if who == "bridge":
                client.process.kill()
                await client.process.wait()
            os.close(ours)
            await client.process.wait()
            again = await here.greeted(env)
            again.call(1, "chat", **reply)
            turn = await again.turn(1)
            assert (turn["status"], turn["joined"]) == ("completed", True)
            assert asked(peer) == 1


async def test_an_answer_that_arrived_is_not_given_again(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.greeted(env)
            session: dict[str, object] = {}
            for number in range(1, 6):  # each of them follows the answer at once
                client.call(number, "chat", agent="droid", message="go on", **session)
                turn = await client.turn(number)
                assert (turn["status"], turn["joined"]) == ("completed", False)
                session = {"session_id": turn["session_id"]}
            assert asked(peer) == 5


async def test_a_server_that_is_killed_in_mid_turn_is_told_of_in_words_and_followed_by_another(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.greeted(env)
            message = slow()
            client.call(1, "chat", agent="droid", message=message)
            client.call("reads", "get_turn", turn_id=str(uuid4()), wait_seconds=0)
            client.say("resources/subscribe", {"uri": "agentapi://catalog/agents"}, 2)
            await client.hear(2)
            await peer.received(1, path=COMPLETIONS)
            client.call(3, "chat", agent="droid", message=slow(), idempotency_key="kept")
            await peer.received(2, path=COMPLETIONS)
            pid = here.pid()
            os.kill(pid, signal.SIGKILL)
            words = await client.result(1)
            assert words["isError"] is True
            assert words["content"][0]["text"].startswith(ENDED)
            # With a key it is asked for again, and what is kept of it is told.
            assert (await client.turn(3))["status"] == "interrupted"
            # What the words promise: the same message is not asked twice, and with `retry` it is.
            client.call("same", "chat", agent="droid", message=message)
            turn = await client.turn("same")
            assert (turn["status"], turn["joined"]) == ("interrupted", True)
            client.call("again", "chat", agent="droid", message=message, retry=True)
            await peer.received(3, path=COMPLETIONS)
            assert (await client.called(4, "list_agents"))["structuredContent"]["agents"]
            assert here.pid() != pid
            assert [each["id"] for each in client.heard if "id" in each].count(0) == 1
            assert asked(peer) == 3


async def test_a_frozen_server_keeps_its_clients_waiting_and_answers_them_later(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        pid = await here.frozen(env)
        client = await here.start(env)
        client.say("initialize", {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}
        }, 0)  # fmt: skip
        os.kill(pid, signal.SIGCONT)
        await client.hear(0)
        assert here.pids() == [pid]


async def test_a_server_that_ends_by_a_signal_answers_and_starts_again_when_it_is_needed(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.greeted(env)
            client.call(1, "chat", agent="droid", message=slow())
            await peer.received(1, path=COMPLETIONS)
            os.kill(here.pid(), signal.SIGTERM)
            assert (await client.turn(1))["status"] == "interrupted"
            await until(lambda: not here.pids())
            client.say("notifications/cancelled", {"requestId": 77})
            assert (await client.called(2, "list_agents"))["structuredContent"]["agents"]
            assert len(here.pids()) == 1
            assert asked(peer) == 1


async def test_a_message_that_a_leaving_server_has_not_read_goes_to_the_next(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer) | {"AGENTAPI_SHUTDOWN_GRACE_SECONDS": "60"}
        async with clients(env) as here:
            client = await here.greeted(env)
            client.call(1, "chat", agent="droid", message=slow())
            await peer.received(1, path=COMPLETIONS)
            place = place_of(env)
            os.kill(here.pid(), signal.SIGTERM)
            await until(lambda: not place.is_locked())
            client.call(2, "chat", agent="droid", message=f"{uuid4()} meanwhile")
            steps.release(50)
            assert (await client.turn(1))["status"] == "completed"
            assert (await client.turn(2))["status"] == "completed"
            assert asked(peer) == 2


async def test_a_bridge_that_comes_too_late_for_a_leaving_server_hears_no_word_of_it(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer) | {"AGENTAPI_SHUTDOWN_GRACE_SECONDS": "60"}
        async with clients(env) as here:
            client = await here.greeted(env)
            client.call(1, "chat", agent="droid", message=slow())
            await peer.received(1, path=COMPLETIONS)
            place = place_of(env)
            reader, writer = await asyncio.open_unix_connection(place.socket)
            await client.ask("ping", {}, 2)  # by now it has accepted the connection
            os.kill(here.pid(), signal.SIGTERM)
            await until(lambda: not place.is_locked())
            writer.write(Hello(NUMBER, os.getpid(), "/").line())
            # With its `ok`, what follows would count as read, and its client would be told that it ran.
            assert await reader.read() == b""
            writer.close()


async def test_a_bridge_that_is_told_to_has_the_server_read_its_file(edge_home: Path, tmp_path: Path) -> None:
    config, name = tmp_path / "agentapi.toml", f"hup{uuid4().hex[:6]}"
    config.touch()
    env = environ(edge_home, AGENTAPI_CONFIG=str(config))
    async with clients(env) as here:
        client = await here.greeted(env)
        await client.called("up", "list_sessions")
        config.write_text(f'[agents.{name}]\nbackend = "guide"\n')
        client.process.send_signal(signal.SIGHUP)
        for number in range(1, 1000):  # within the time limit of the test
            if not (await client.called(number, "chat", agent=name, message="which agents are there?")).get("isError"):
                break
        assert client.process.returncode is None


async def test_a_server_that_nobody_uses_ends(edge_home: Path) -> None:
    env = environ(edge_home, AGENTAPI_RESIDENT_LINGER_SECONDS="0")
    async with clients(env) as here:
        client = await here.greeted(env)
        await client.called(1, "list_agents")
        assert len(here.pids()) == 1
        assert await client.end() == 0
        await until(lambda: not here.pids())
        assert place_of(env).inode() is None


async def test_a_server_runs_as_long_as_a_turn_whose_client_is_gone(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer, AGENTAPI_RESIDENT_LINGER_SECONDS="0")
        async with clients(env) as here:
            client = await here.greeted(env)
            client.call(1, "chat", agent="droid", message=slow())
            exchange = await peer.received(1, path=COMPLETIONS)
            assert await client.end() == 0
            assert len(here.pids()) == 1
            steps.release(50)
            await exchange.ended.wait()
            await until(lambda: not here.pids())
            assert exchange.outcome == "done"


async def test_a_server_whose_home_vanishes_ends(seed: Seed) -> None:
    async with seed.started("gone-") as server:
        env = environ(server.home)
        async with clients(env) as here:
            client = await here.served(env)
            (server.home / "run").rename(server.home / "moved")
            await until(lambda: not here.pids())
            # The client is served again, by a server in the directory that is there now.
            assert (await client.ask("ping", {}, 1))["result"] == {}
            assert len(here.pids()) == 1


async def test_a_wrong_setting_is_told_as_without_a_resident_server(edge_home: Path) -> None:
    env = environ(edge_home, AGENTAPI_WAIT_SECONDS="soon")
    async with clients(env) as here:
        client = await here.start(env)
        out, err = await client.process.communicate(b"")
        assert (out, client.process.returncode) == (b"", 3)
        assert b"agentapi-mcp: A setting is wrong: AGENTAPI_WAIT_SECONDS must be a whole number." in err


async def test_a_server_of_another_version_is_not_spoken_to(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        place = place_of(env)
        lock = await asyncio.to_thread(wait_until, place.try_lock)
        assert lock is not None
        place.remove_socket()  # of a server that another test has killed
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place.socket)
            listener.listen()
            client = await here.start(env)
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                connection.sendall(b"ok 999 7.0 1\n")
        _, err = await client.process.communicate()
        assert client.process.returncode == 3
        assert b"another version of agentapi-mcp was installed meanwhile. Restart this client." in err
        os.close(lock)
        place.remove_socket()


@pytest.mark.parametrize("shared", ["0", "1"])
async def test_pipes_that_another_process_made_non_blocking_are_waited_for(shared: str, edge_home: Path) -> None:
    env = environ(edge_home) | {"AGENTAPI_RESIDENT": shared}
    theirs, ours = os.pipe()
    answers, stdout = os.pipe()
    os.set_blocking(theirs, False)  # the name of the function says it
    os.set_blocking(stdout, False)  # as above
    async with clients(env) as here:
        await here.start(env, stdin=theirs, stdout=stdout)
        for fd in (theirs, stdout):
            os.close(fd)
        with os.fdopen(ours, "wb", buffering=0) as pipe, os.fdopen(answers, "rb") as lines:
            pipe.write(HELLO_LINES)
            assert b"serverInfo" in await asyncio.to_thread(lines.readline)
            # The server itself answers this, after a pause of its client's.
            pipe.write(
                b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_agents","arguments":{}}}\n'
            )
            while b'"id":1,' not in await asyncio.to_thread(lines.readline):  # its lists have changed, it may say first
                pass
            numbers = range(2, 42)  # so many answers are more than a pipe takes
            pipe.write(b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n' % number for number in numbers))
            found = [json.loads(await asyncio.to_thread(lines.readline)) for _ in numbers]
            assert sorted(each["id"] for each in found) == list(numbers)


async def test_a_reason_with_a_path_that_is_no_utf_8_is_told_all_the_same() -> None:
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as path:  # a short one
        home = Path(path) / os.fsdecode(b"caf\xe9")
        env = environ(home, AGENTAPI_DATABASE_URL="postgresql://127.0.0.1:1/none")
        async with clients(env) as here:
            client = await here.greeted(env)
            (home / "run").chmod(0o755)
            os.kill(here.pid(), signal.SIGKILL)
            words = (await client.called(1, "list_agents"))["content"][0]["text"]
            assert words.endswith("/caf?/run is not a private directory of this user.")


async def test_a_directory_that_became_unusable_is_told_at_once_and_once(seed: Seed) -> None:
    async with seed.started("closed-") as server:
        env = environ(server.home)
        run = server.home / "run"
        async with clients(env) as here:
            client = await here.served(env)
            run.chmod(0o755)
            os.kill(here.pid(), signal.SIGKILL)
            why = f"{run} is not a private directory of this user."
            assert client.process.stderr is not None
            assert await client.process.stderr.readline() == f"agentapi-mcp: {why}\n".encode()
            words = (await client.called(1, "list_agents"))["content"][0]["text"]
            assert words == f"The server of agentapi-mcp does not start: {why}"
            run.chmod(0o700)
            for number in count(2):  # it tries again after two seconds
                if not (await client.called(number, "list_agents"))["isError"]:
                    break
            assert await client.end() == 0
            assert b"does not say why" not in await client.process.stderr.read()


@pytest.mark.parametrize("shared", ["0", "1"])
async def test_a_line_that_is_too_long_is_refused_to_whom_it_concerns(shared: str, edge_home: Path) -> None:
    env = environ(edge_home) | {"AGENTAPI_RESIDENT": shared}
    async with clients(env) as here:
        client = await here.greeted(env)
        long = "x" * (LONGEST_LINE + 1_000_000)
        for line in (
            f'{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{long}"}}}}',
            f'{{"method":"ping","params":{{"x":"{long}"}},"jsonrpc":"2.0","id":1}}',
        ):
            client.write(line)
            assert (await client.hear(1))["error"]["message"] == "The message is longer than 8,388,608 bytes."
        assert (await client.ask("ping", {}, 2))["result"] == {}


async def test_a_line_that_never_ends_is_not_kept_for_whoever_sends_it(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        client = await here.served(env)
        before = resident_bytes(here.pid())
        reader, writer = await asyncio.open_unix_connection(place_of(env).socket)
        writer.write(Hello(NUMBER, os.getpid(), "/").line())
        assert (await reader.readline()).startswith(b"ok ")
        for _ in range(200):
            writer.write(b"x" * 1_000_000)
            await writer.drain()
        assert (await client.ask("ping", {}, 1))["result"] == {}
        assert resident_bytes(here.pid()) - before < 50_000_000
        writer.close()


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has in use (proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "line", [b"", b"GET / HTTP/1.1\r\n", b"bridge x y z\n", b"\xff\n", b"bridge %d 1 zz\n" % NUMBER]
)
async def test_what_is_no_bridge_gets_no_answer(line: bytes, edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        client = await here.greeted(env)
        reader, writer = await asyncio.open_unix_connection(place_of(env).socket)
        writer.write(line)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert (await client.ask("ping", {}, 1))["result"] == {}


async def test_a_line_that_looks_like_the_bridges_own_is_a_clients_line(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        client = await here.greeted(env)
        client.write("\0synced 1")
        assert client.process.stdout is not None
        assert b"This line is not JSON." in await client.process.stdout.readline()
        assert (await client.ask("ping", {}, 1))["result"] == {}


async def test_where_there_can_be_none_the_server_runs_in_the_process_of_its_client(seed: Seed) -> None:
    async with seed.started("own-") as server:
        (server.home / "run").mkdir()
        (server.home / "run").chmod(0o755)
        env = environ(server.home)
        here = Clients(str(server.home / "run"))
        client = await here.greeted(env)
        assert here.pids() == []
        assert await client.end() == 0


async def test_a_word_that_says_neither_yes_nor_no_is_refused(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        client = await here.start(env | {"AGENTAPI_RESIDENT": "perhaps"})
        _, err = await client.process.communicate(b"")
        assert client.process.returncode == 3
        assert b"AGENTAPI_RESIDENT must be true or false" in err
        assert here.pids() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
async def test_another_account_gets_no_answer_even_where_it_can_connect(seed: Seed) -> None:
    async with seed.started("uid-") as server:
        env = environ(server.home)
        async with clients(env) as here:
            client = await here.served(env)
            place = place_of(env)
            await asyncio.to_thread(let_everybody_in, place)
            for uid, said in ((65534, b""), (0, b"ok %d " % NUMBER)):
                words = (sys.executable, "-c", STRANGER, place.socket, str(uid))
                stranger = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
                out, _ = await stranger.communicate()
                assert (stranger.returncode, out[: len(said) or None]) == (0, said)
            assert (await client.ask("ping", {}, 1))["result"] == {}


STRANGER = f"""
import os, socket, sys
os.setuid(int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
try:
    connection.sendall(b"bridge {NUMBER} 1 2f\\n")
    sys.stdout.buffer.write(connection.recv(100))
except ConnectionError:
    pass
"""


def let_everybody_in(place: Place) -> None:
    for path, mode in ((place.run, 0o711), (place.socket, 0o777)):
        Path(path).chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="as root alone Postgres runs as another account")
async def test_a_closed_home_of_roots_is_opened_to_postgres_although_the_bridge_was_there_first() -> None:
    with tempfile.TemporaryDirectory(prefix="closed-", dir="/tmp", ignore_cleanup_errors=True) as path:  # a short one
        home = closed_home(Path(path))
        env = environ(home.path)
        async with clients(env) as here:
            client = await here.greeted(env)
            client.call(1, "list_agents")
            await client.hear(1)  # whether or not the first start was quick enough for it
        assert mode_of(home.path) == 0o711
        await asyncio.to_thread(home.remove)


def closed_home(place: Path) -> SharedHome:
    place.chmod(0o711)
    home = SharedHome(place / "home")
    home.path.mkdir(mode=0o700)
    return home


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777
