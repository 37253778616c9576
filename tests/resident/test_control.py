"""`status` and `stop`: what they tell of resident servers, and how those end."""

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agentapi_mcp.testing.http import Steps
from tests.support.command_runs import CommandRun, run_command
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import COMPLETIONS, Clients, LineClient, asked, clients, environ
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


async def told(env: Mapping[str, str]) -> dict[str, Any]:
    """Return what `status` tells programs."""
    status, out, err = await run_command(env, "status", "--json")
    assert status == 0, err
    return json.loads(out)


async def stopped(env: Mapping[str, str], *words: str) -> CommandRun:
    return await run_command(env, "stop", *words)


async def test_status_tells_of_every_server_and_its_clients(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer)
        other = env | {"OPENROUTER_API_KEY": "sk-or-v1-another"}
        async with clients(env) as here:
            first = await here.served(env, "an-ide")
            await here.served(other, "another-ide")
            first.call(1, "chat", agent="droid", message=f"{uuid4()} [[slow]] [[chunks4]]")
            await peer.received(1, path=COMPLETIONS)
            tells = await told(env)
            assert (tells["shared"], tells["reason"], len(tells["servers"])) == (True, None, 2)
            busy, idle = sorted(tells["servers"], key=lambda each: each["running_turns"], reverse=True)
            assert {busy["pid"], idle["pid"]} == set(here.pids())
            assert (busy["running_turns"], busy["idle_since"], busy["home"]) == (1, None, str(edge_home))
            (client,) = busy["clients"]
            assert (client["name"], client["pid"], client["open_requests"]) == ("an-ide 1", first.process.pid, 1)
            assert client["cwd"] == os.getcwd()  # noqa: PTH109  # as a process inherits it
            assert [each["name"] for each in idle["clients"]] == ["another-ide 1"]
            _, out, _ = await run_command(env, "status")
            assert out.startswith("Clients here share a server.\n")
            # Why there are two, without what is secret.
            assert tells["differ_in"] == ["OPENROUTER_API_KEY"]
            assert "The servers differ in these variables: OPENROUTER_API_KEY.\n" in out
            assert "sk-or-v1" not in out
            assert f"{busy['pid']}\t0.1.0\t" in out
            assert "an-ide 1" in out


async def test_status_says_why_a_client_has_a_server_of_its_own_and_makes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for given, reason in (
        ({"AGENTAPI_RESIDENT": "0"}, "AGENTAPI_RESIDENT refuses it"),
        ({"AGENTAPI_HOME": "relative"}, "AGENTAPI_HOME is no absolute path"),
        ({}, None),
    ):
        assert await told(environ(home) | given) == {
            "shared": reason is None, "reason": reason, "servers": [], "differ_in": []
        }  # fmt: skip
    assert not home.exists()
    (home / "run").mkdir(parents=True)
    (home / "run").chmod(0o755)
    assert (await told(environ(home)))["reason"] == f"{home}/run is not a private directory of this user"
    status, out, _ = await run_command(environ(home), "status")
    assert (status, out) == (
        0,
        f"A client here gets a server of its own: {home}/run is not a private directory of this user.\nNone runs.\n",
    )


async def test_stop_ends_every_server_and_interrupts_its_turns(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            client = await here.greeted(env)
            await here.served(env | {"OPENROUTER_API_KEY": "sk-or-v1-another"})
            client.call(1, "chat", agent="droid", message=f"{uuid4()} [[slow]] [[chunks4]]")
            await peer.received(1, path=COMPLETIONS)
            ran = await stopped(env)
            assert (ran.status, ran.err) == (0, "")
            assert sorted(ran.out.count(word) for word in ("Stopped: ", "it ran 1 turn,")) == [1, 2]
            assert here.pids() == []
            assert (await client.turn(1))["status"] == "interrupted"
            # It stays so until a client asks for something.
            client.say("notifications/cancelled", {"requestId": 7})
            assert (await told(env))["servers"] == []
            assert (await client.called(2, "list_agents"))["structuredContent"]["agents"]
            assert len(here.pids()) == 1
            assert asked(peer) == 1


async def test_a_frozen_server_is_told_and_killed_by_force_alone(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        client = await here.served(env)
        pid = here.pid()
        os.kill(pid, signal.SIGSTOP)
        # One that came too late for it, and is answered before it.
        late = await here.greeted(env)
        (server,) = (await told(env))["servers"]
        assert (server["pid"], server["answers"]) == (pid, False)
        assert "does not answer" in (await run_command(env, "status")).out
        waited = await stopped(env)
        assert (waited.status, waited.out) == (1, "")
        said = waited.err.splitlines()
        assert said[0] == f"agentapi-mcp: the server with the process id {pid} does not answer; waiting for its end."
        assert said[1].endswith(f"say --force. Its log is {server['log']}.")
        # A signal that it gets later would end it, too; it is told nothing while it is frozen.
        forced = await stopped(env, "--force", "--json")
        assert (forced.status, json.loads(forced.out)) == (0, {"stopped": [pid], "left": []})
        assert here.pids() == []
        # The bridges of neither client start another one by themselves.
        assert (await told(env))["servers"] == []
        for each in (client, late):
            assert (await each.called(1, "list_agents"))["structuredContent"]["agents"]
        assert len(here.pids()) == 1


async def test_what_a_server_that_was_killed_by_force_never_read_has_the_next_one_started(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        await here.frozen(env)
        late = await here.greeted(env)
        late.call(1, "list_agents")
        assert (await stopped(env, "--force")).status == 0
        assert (await late.result(1))["structuredContent"]["agents"]


async def ends_slowly(here: Clients, client: LineClient, peer: OpenAIPeer) -> Path:
    """Have the server end while a turn runs; return the file that tells of it."""
    client.call(1, "chat", agent="droid", message=f"{uuid4()} [[slow]] [[chunks4]]")
    await peer.received(1, path=COMPLETIONS)
    os.kill(here.pid(), signal.SIGTERM)
    (file,) = await asyncio.to_thread(wait_until, lambda: list(Path(here.run).glob(f"*.{here.pid()}.ending")))
    return file


async def test_a_server_whose_last_turns_end_is_told_of_and_waited_for(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer, AGENTAPI_SHUTDOWN_GRACE_SECONDS="3600")
        async with clients(env) as here, asyncio.TaskGroup() as group:
            client = await here.served(env)
            pid, file = here.pid(), await ends_slowly(here, client, peer)
            (server,) = (await told(env))["servers"]
            assert (server["pid"], server["ending"]) == (pid, True)
            assert (server["running_turns"], server["clients"]) == (1, [])
            assert (await run_command(env, "status")).out.rstrip().endswith("\tending")
            waiting = group.create_task(stopped(env, "--json"))
            steps.release(50)
            assert (await client.turn(1))["status"] == "completed"
            assert json.loads((await waiting).out)["left"] == []
            assert here.pids() == []
            assert (await told(env))["servers"] == []
            assert not file.exists()


async def test_a_server_that_never_ends_its_end_is_killed_by_force_alone(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer, AGENTAPI_SHUTDOWN_GRACE_SECONDS="3600")
        async with clients(env) as here:
            file = await ends_slowly(here, await here.served(env), peer)
            pid = here.pid()
            os.utime(file, (0, 0))  # its time is over
            for words, expected in (
                ((), {"stopped": [], "left": [pid]}),
                (("--force",), {"stopped": [pid], "left": []}),
            ):
                assert json.loads((await stopped(env, "--json", *words)).out) == expected
            assert here.pids() == []
            assert (await told(env))["servers"] == []


async def test_stop_where_nothing_runs_is_no_fault(tmp_path: Path) -> None:
    ran = await stopped(environ(tmp_path / "home"))
    assert (ran.status, ran.out, ran.err) == (0, "None runs.\n", "")


async def test_commands_work_beside_a_resident_server(seed: Seed) -> None:
    async with seed.started("beside-") as server:
        env = environ(server.home)
        async with clients(env) as here:
            client = await here.greeted(env)
            client.call(1, "chat", agent="guide", message="hello")
            session = (await client.turn(1))["session_id"]
            for words in (
                ("migrate",),
                ("sessions", "show", session),
                ("chat", "--session", session, "--agent", "guide", "and then?"),
                ("chat", "--via-mcp", "--session", session, "--agent", "guide", "and then?"),
            ):
                status, _, err = await run_command(env, *words)
                assert status == 0, (words, err)
            assert len(here.pids()) == 1
            transcript = await client.called(2, "get_transcript", session_id=session)
            assert str(transcript).count("and then?") >= 2


async def test_doctor_tells_of_the_shared_server(seed: Seed) -> None:
    async with seed.started("doctor-") as server:
        env = environ(server.home)

        async def checked(**more: str) -> tuple[str, str, list[str]]:
            _, out, _ = await run_command(env | more, "doctor", "--json")
            (check,) = [each for each in json.loads(out)["checks"] if each["name"] == "shared server"]
            return check["outcome"], check["detail"], check["mend"]

        assert await checked() == ("ok", "clients over stdio share one, which none has started", [])
        refused = "each client over stdio has its own: AGENTAPI_RESIDENT refuses it"
        assert await checked(AGENTAPI_RESIDENT="0") == ("not_in_use", refused, [])
        async with clients(env) as here:
            await here.served(env)
            shared = "clients over stdio share one: 1 runs, with 1 client and 0 running turns"
            assert await checked() == ("ok", shared, [])
            pid = here.pid()
            os.kill(pid, signal.SIGSTOP)
            silent = f"process {pid} does not answer its clients"
            assert await checked() == ("warning", silent, ["agentapi-mcp stop --force"])
        run = server.home / "run"
        run.chmod(0o755)
        own = f"each client over stdio has its own: {run} is not a private directory of this user"
        assert await checked() == ("warning", own, [f"chmod 700 {run}"])
