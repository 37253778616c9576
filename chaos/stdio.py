"""What breaks between clients over stdio and the server that they share."""

from chaos.evidence import read_log
from chaos.residents import Residents, Server
from chaos.running import Run
from chaos.timing import pause, until

_FROZEN = 1.0
_TURN_WITHIN = 10.0
# Beyond the time for which a server lingers without a client.
_ENDS_WITHIN = 30.0


async def break_servers(run: Run) -> None:
    """Kill, stop or freeze the server at random moments."""
    residents = _residents(run)
    while run.left > 4:
        server = await residents.serving()
        await pause(run.chance.choice((0, 1, 3)) * run.chance.random())
        if server.life.until is not None:
            run.violates("server_ended", server.life.process, "by itself, while it had clients")
            continue
        await run.chance.choice((_kill, _stop, _freeze))(run, residents, server)
        if run.chance.random() < 0.5:
            await run.recovers()


async def kill_bridges(run: Run) -> None:
    """Kill one bridge after the other at random moments; its client starts a new one, and asks the same again."""
    residents = _residents(run)
    while run.left > 2:
        await pause(0.2 + run.chance.random() * 2)
        busy = [client for client in residents.clients if client.pid is not None]
        if busy:
            await run.chance.choice(busy).kill()
            run.count("kill -9 of a bridge")


async def everything_ends(run: Run) -> None:
    """Let the clients end: their bridges end at once, and the server when nobody has come for a while."""
    residents = _residents(run)
    strangers = {each.process for each in read_log(run.world.provider.log)} - {life.process for life in run.world.lives}
    assert not strangers, f"the provider was asked by {strangers}, which the harness does not know"
    assert residents.processes(), "there are none, so that none can be left"
    for client in residents.clients:
        status = await client.end()
        if status and status > 0:
            run.violates("ended_badly", f"bridge {client.pid}", f"with status {status} at the end of its client")
        elif status is None:
            run.violates("process_left", f"bridge {client.pid}", "its client has ended")

    async def is_empty() -> bool:
        return not residents.processes()

    if not await until(is_empty, _ENDS_WITHIN):
        run.violates("process_left", "home", f"{residents.processes()}")


def _residents(run: Run) -> Residents:
    assert run.world.residents is not None
    return run.world.residents


async def _kill(run: Run, residents: Residents, server: Server) -> None:
    if run.chance.random() < 0.7:  # else, as it may be, in the first moments of one that has just started
        await _in_mid_turn(residents)
    await residents.kill(server)
    run.count("kill -9 of the server")


async def _stop(run: Run, residents: Residents, server: Server) -> None:
    await _in_mid_turn(residents)
    status, said = await residents.stop(server)
    run.count("`agentapi-mcp stop` in mid-turn")
    if status:
        run.violates("ended_badly", server.life.process, f"`stop` ended with status {status}: {said}")


async def _freeze(run: Run, residents: Residents, server: Server) -> None:
    await residents.freeze(server, _FROZEN)
    run.count(f"SIGSTOP of the server for {_FROZEN:g} s")


async def _in_mid_turn(residents: Residents) -> None:
    async def runs_one() -> bool:
        return await residents.running_turns() > 0

    await until(runs_one, _TURN_WITHIN, 0.05)
