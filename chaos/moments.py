"""Single turns that are broken at one moment, where a load would only meet it by chance."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from uuid import UUID

import asyncpg
from chaos.clients import Client, RefusedError
from chaos.evidence import Message, Outage, Told, marked, read_log
from chaos.findings import FINAL
from chaos.load import tell
from chaos.processes import descriptors, resident
from chaos.running import Run
from chaos.timing import now, pause, until
from chaos.world import AGENT, World, status_of

_AWAY = 20.0
# What a turn of somebody else may take beside one locked session, or beside a flood.
_OTHERS = 1.0
# The same message within a second counts as a parallel sample.
_PARALLEL = 1.0
# Longer than the minute after which replicas look at each other again.
_NOTICED_WITHIN = 90.0
_GROWTH_MB, _GROWTH_DESCRIPTORS = 15.0, 10


async def back_and_read(run: Run) -> None:
    """Let a turn end while Postgres is away, and read it first of all, at its owner and at another, by turns."""
    owner = run.world.replicas[0]
    number = 0
    while True:
        reader = run.world.replicas[number % 2]
        number += 1
        message = run.load.new_message()
        told = await _ask(run.client(owner), message, "[[pieces=20 pace=0.2]]", wait_seconds=1)
        assert told is not None, message.refusals
        outage = Outage(since=now())
        run.world.outages.append(outage)
        await run.world.store.kill()
        run.count(f"SIGKILL of Postgres, away {_AWAY:g} s, and the turn read first of all")
        await pause(_AWAY)
        await run.world.store.start()
        outage.until = now()
        await _read(run.client(reader), message, told)
        await run.recovers(outage.until)
        if run.left < _AWAY:
            break


async def sigterm_pg_away(run: Run) -> None:
    """Stop the owner of an answered turn while Postgres is away, for less than the grace."""
    owner, other = run.world.replicas[:2]
    message = run.load.new_message()
    told = await _ask(run.client(owner), message, "[[pieces=20 pace=0.2]]", wait_seconds=1)
    assert told is not None, message.refusals
    async with asyncio.TaskGroup() as group, run.outage():
        await run.world.store.kill()
        await pause(4)
        run.count("SIGTERM of the owner while Postgres is away for 12 s")
        stopping = group.create_task(owner.stop())
        await pause(8)
        await run.world.store.start()
    life = owner.life
    if life.stopping is not None and life.until is not None:
        run.notes.append(f"exit status {stopping.result()} {life.until - life.stopping:.1f} s after SIGTERM")
    await _read(run.client(other), message, told)
    await owner.start()


async def key_after_crash(run: Run) -> None:
    """Kill a replica in mid-turn; its callers ask again at another at once, and then do what the words say."""
    owner, other = run.world.replicas[:2]
    script = "[[pieces=40 pace=0.2]]"
    keyed, silent, plain = (run.load.new_message() for _ in range(3))
    keys = {message.marker: {"idempotency_key": f"k-{message.marker}"} for message in (keyed, silent)}
    async with asyncio.TaskGroup() as group:
        for message, words in ((keyed, script), (silent, "[[hang]]"), (plain, script)):
            group.create_task(_ask(run.client(owner), message, words, **keys.get(message.marker, {})))
        await _all_asked(run.world, keyed, silent, plain)
        await pause(_PARALLEL)
        await owner.kill()
        run.count("kill -9 of the owner of three turns")
    killed = now()
    async with asyncio.TaskGroup() as group:
        group.create_task(_insist(run.client(other), keyed, script, keys[keyed.marker]))
        group.create_task(_insist(run.client(other), silent, "[[hang]]", keys[silent.marker]))
        group.create_task(_insist(run.client(other), plain, script, {}))
    run.recoveries.append(now() - killed)
    # Knowingly, so once more is what the caller wants.
    keyed.copies = 2
    await _follow_words(run, run.client(other), keyed, script, keys[keyed.marker])
    await owner.start()


async def rowlock(run: Run) -> None:
    """Lock a session whose turn ends meanwhile, send ten messages to it, and time the turns of everybody else."""
    client = run.client()
    first = run.load.new_message()
    told = await _ask(client, first, "[[pieces=10 pace=0.2]]", wait_seconds=0)
    assert told is not None, first.refusals
    connection = await asyncpg.connect(run.world.store.admin_url)
    try:
        async with asyncio.TaskGroup() as group, connection.transaction():
            await connection.execute("SELECT FROM public.chat_sessions WHERE id = $1 FOR UPDATE", UUID(told.session_id))
            run.count("row of one session locked, 10 messages to it")
            for number in range(1, 11):
                message = run.load.new_message(session_id=told.session_id)
                message.copies = 1
                group.create_task(_ask(client, message, f"number {number}", session_id=told.session_id, wait_seconds=5))
            await pause(0.5)
            await _time_others(run, run.left)
    finally:
        await connection.close()
    await _read(client, first, told)
    await run.recovers()


async def flood(run: Run) -> None:
    """Let twenty answers of many pieces arrive at full speed, and time the turns of everybody else."""
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            message = run.load.new_message()
            group.create_task(_ask(run.client(), message, "[[pieces=20000]]", wait_seconds=50))
            run.count("answer of 20,000 pieces at full speed")
        await _time_others(run, run.left)


async def ten_at_once(run: Run) -> None:
    """Send the same message ten times at once: with a key, without one in a session, and without either."""
    while run.left > 0:
        for keyed in (True, False):
            opening = run.load.new_message()
            told = await _ask(run.client(), opening, "", wait_seconds=10)
            if told is None:
                continue
            await _burst(run, told.session_id, keyed=keyed)
            await _burst(run, None, keyed=keyed)


async def _burst(run: Run, session: str | None, *, keyed: bool) -> None:
    message = run.load.new_message(session_id=session)
    # Ten callers that all wait may want ten samples, where neither key nor session says that they are one.
    message.copies = 1 if keyed or session else 10
    given: dict[str, object] = {"session_id": session} if session else {}
    if keyed:
        given["idempotency_key"] = f"k-{message.marker}"
    run.count("ten identical calls at once, " + ("with a key" if keyed else "without a key"))
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            client = run.client(era="2025-11-25" if number % 2 else "2026-07-28")
            group.create_task(_ask(client, message, "[[pieces=10 pace=0.1]]", wait_seconds=8, **given))


async def two_configurations(run: Run) -> None:
    """Look whether replicas that were given different configurations say so to whoever asks for their health."""
    run.count("replicas of two configurations")
    for replica in run.world.replicas:

        async def says_so(port: int = replica.port) -> bool:
            ready = await run.world.http.get(f"http://127.0.0.1:{port}/readyz")
            return "replicas" in ready.json().get("warnings", ())

        if not await until(says_so, max(_NOTICED_WITHIN, run.left), 0.5):
            run.violates("difference_unnoticed", f"replica-{replica.number}", "its health has no warning of replicas")


async def watch_resources(run: Run) -> None:
    """Read memory and descriptors of each replica twice a minute; from the second minute on they stay flat."""
    readings = {replica.number: list[tuple[float, int]]() for replica in run.world.replicas}
    while run.left > 0:
        await pause(min(30.0, run.left))
        for replica in run.world.replicas:
            readings[replica.number].append((resident(replica.process.pid), descriptors(replica.process.pid)))
    for number, all_read in readings.items():
        memory, opened = zip(*(all_read[2:] or all_read), strict=True)
        run.notes.append(
            f"replica-{number}: {min(memory):.0f} to {max(memory):.0f} MB, {max(opened)} descriptors at most"
        )
        if memory[-1] > memory[0] + _GROWTH_MB:
            run.violates("memory_grew", f"replica-{number}", f"from {memory[0]:.0f} to {memory[-1]:.0f} MB")
        if opened[-1] > opened[0] + _GROWTH_DESCRIPTORS:
            run.violates("descriptors_grew", f"replica-{number}", f"from {opened[0]} to {opened[-1]}")


async def kill_under_load(run: Run) -> None:
    """Kill each replica once, when the load has lasted for a while."""
    for replica in run.world.replicas:
        await pause(12)
        await replica.kill()
        run.count(f"kill -9 of a replica under {run.load.clients} clients")
        killed = now()
        await replica.start()
        run.recoveries.append(now() - killed)


async def _ask(client: Client, message: Message, words: str, **more: object) -> Told | None:
    """Send a message once; what is refused is recorded."""
    arguments: dict[str, object] = {
        "message": marked(message.marker, words),
        "agent": AGENT,
        "wait_seconds": 30,
        **more,
    }
    with suppress(RefusedError):
        return await tell(client, message, "chat", arguments)
    return None


async def _read(client: Client, message: Message, told: Told) -> None:
    """Ask for a turn at once and again until it has ended."""

    async def ended() -> bool:
        with suppress(RefusedError):
            await tell(client, message, "get_turn", {"turn_id": told.turn_id, "wait_seconds": 5})
        return message.told[-1].status in FINAL

    await until(ended, 40, 0.05)


async def _all_asked(world: World, *messages: Message) -> None:
    async def asked() -> bool:
        return {message.marker for message in messages} <= {each.marker for each in read_log(world.provider.log)}

    assert await until(asked, 30), "the provider was not asked"


async def _insist(client: Client, message: Message, words: str, key: Mapping[str, object]) -> None:
    """Send the same request again until its turn has ended."""

    async def ended() -> bool:
        told = await _ask(client, message, words, wait_seconds=10, **key)
        return told is not None and told.status in FINAL

    await until(ended, 45, 0.2)


async def _follow_words(run: Run, client: Client, message: Message, words: str, key: Mapping[str, object]) -> None:
    """Do what the answer to an interrupted turn says, with the same key, as a client library would."""
    told = message.last
    if told is None or told.status != "interrupted":
        return
    way: dict[str, object] = {"retry": True} if "retry" in told.words else {"session_id": told.session_id}
    arguments = {"message": marked(message.marker, words), "agent": AGENT, "wait_seconds": 40, **key, **way}
    try:
        again = await tell(client, message, "chat", arguments)
    except RefusedError as exc:
        run.violates("key_leads_nowhere", message.marker, f"told {told.words[:120]!r}, and then {exc.text!r}")
        return
    if again.status != "completed":
        run.violates("key_leads_nowhere", message.marker, f"asked again, and it is {again.status}")


async def _time_others(run: Run, seconds: float) -> None:
    """Send one short message after the other, each in a session of its own; every one must be quick."""
    slowest = 0.0
    end = now() + seconds
    while now() < end:
        message = run.load.new_message()
        started = now()
        told = await _ask(run.client(), message, "", wait_seconds=30)
        took = now() - started
        slowest = max(slowest, took)
        # Untimed, it is enough that it ends beside the lock or the flood.
        if took > _OTHERS if run.is_timed else told is None or told.status != "completed":
            run.violates("others_stalled", message.marker, f"{took:.1f} s, told {told.status if told else 'nothing'}")
        if run.is_timed and await status_of(f"http://127.0.0.1:{run.world.replicas[0].port}/healthz") is None:
            run.violates("health_stalled", "replica-0", "no answer in 5 s")
        await pause(0.2)
    run.notes.append(f"slowest turn of somebody else: {slowest:.2f} s")
