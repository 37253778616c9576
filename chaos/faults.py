"""Faults, one function each, which go on as long as the load does; `running.together` composes them."""

import asyncio
import signal
from datetime import UTC, datetime, time, timedelta

import asyncpg
from chaos.clocks import clock_file
from chaos.limits import limit_the_day
from chaos.running import Fault, Run
from chaos.timing import now, pause

_RECOVER = 4.0


def kill_replicas(gap: float = 4.0) -> Fault:
    """Kill one replica after the other, and start each again."""

    async def inject(run: Run) -> None:
        number = 0
        while run.left > 2:
            replica = run.world.replicas[number % len(run.world.replicas)]
            number += 1
            await replica.kill()
            run.count("kill -9 of a replica")
            killed = now()
            await replica.start()
            run.recoveries.append(now() - killed)
            await pause(gap)

    return inject


def stop_replicas(*, announced: bool) -> Fault:
    """Restart one replica after the other; the balancer takes each out before where the stop is announced."""

    async def inject(run: Run) -> None:
        number = 0
        while run.left > 4:
            replica = run.world.replicas[number % len(run.world.replicas)]
            number += 1
            if announced:
                run.world.balancer.out.add(replica.port)
                await pause(0.5)
            stopped = now()
            status = await replica.stop()
            run.count("SIGTERM of a replica")
            if status:
                run.violates("ended_badly", f"replica-{replica.number}", f"with status {status} after SIGTERM")
            await replica.start()
            run.recoveries.append(now() - stopped)
            run.world.balancer.out.discard(replica.port)
            await pause(1)

    return inject


def freeze_replica(seconds: float) -> Fault:
    """Let a replica stand still longer than its leases last, while the others go on."""

    async def inject(run: Run) -> None:
        replica = run.world.replicas[0]
        run.world.balancer.out.add(replica.port)  # a balancer notices
        replica.freeze()
        run.count(f"SIGSTOP of a replica for {seconds:g} s")
        await pause(seconds)
        replica.thaw()
        run.world.balancer.out.discard(replica.port)
        await run.recovers()

    return inject


def postgres_away(
    seconds: float, *, sign: signal.Signals = signal.SIGKILL, times: int = 100, gap: float = 5.0
) -> Fault:
    """Let Postgres be away for so long, again and again: killed, or shut down by a signal."""

    async def inject(run: Run) -> None:
        for _ in range(times):
            if run.left < seconds:
                break
            async with run.outage():
                if sign == signal.SIGKILL:
                    await run.world.store.kill()
                else:
                    await run.world.store.stop(sign)
                run.count(f"{sign.name} of Postgres, away {seconds:g} s")
                await pause(seconds)
                await run.world.store.start()
            await pause(gap)

    return inject


def postgres_frozen(*spells: float) -> Fault:
    """Let Postgres stand still, its connections open, for each spell."""

    async def inject(run: Run) -> None:
        for seconds in spells:
            async with run.outage():
                run.world.store.freeze()
                run.count(f"SIGSTOP of Postgres for {seconds:g} s")
                await pause(seconds)
                run.world.store.thaw()
            await pause(_RECOVER)

    return inject


async def terminate_backends(run: Run) -> None:
    """End half of the program's connections at random, again and again."""
    connection = await asyncpg.connect(run.world.store.admin_url)
    try:
        while run.left > 2:
            ended = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"
            )
            run.count("connection terminated", int(ended))
            await pause(0.7)
    finally:
        await connection.close()
    await run.recovers()


def lock_sessions(*spells: float) -> Fault:
    """Lock the table of sessions for each spell."""

    async def inject(run: Run) -> None:
        connection = await asyncpg.connect(run.world.store.admin_url)
        try:
            for seconds in spells:
                async with run.outage(), connection.transaction():
                    await connection.execute("LOCK TABLE public.chat_sessions IN ACCESS EXCLUSIVE MODE")
                    run.count(f"chat_sessions locked for {seconds:g} s")
                    await pause(seconds)
                await pause(_RECOVER)
        finally:
            await connection.close()

    return inject


def fill_disk(seconds: float, times: int) -> Fault:
    """Leave Postgres no room for so long; it is started again where it dies of it."""

    async def inject(run: Run) -> None:
        for _ in range(times):
            async with run.outage():
                ballast = await asyncio.to_thread(run.world.postgres.fill_disk)
                run.count(f"disk of Postgres full for {seconds:g} s")
                await pause(seconds)
                ballast.unlink()
                if not run.world.postgres.is_up:
                    run.count("Postgres died of it")
                    await run.world.postgres.start()
            await pause(_RECOVER)

    return inject


def cut_commits(*, before: float, after: float) -> Fault:
    """Cut the wire to Postgres around commits: so often before they arrive, so often before their answer does."""

    async def inject(run: Run) -> None:
        wire = run.world.wire
        assert wire is not None
        wire.cut_before, wire.cut_after = before, after
        await pause(run.left - 2)
        wire.mend()
        run.count("wire cut around a commit", wire.cuts)
        await run.recovers()

    return inject


def silence_wire(*spells: float) -> Fault:
    """Let nothing through the wire to Postgres for each spell, its connections open."""

    async def inject(run: Run) -> None:
        wire = run.world.wire
        assert wire is not None
        for seconds in spells:
            async with run.outage():
                wire.silence(silent=True)
                run.count(f"wire to Postgres silent for {seconds:g} s")
                await pause(seconds)
                wire.silence(silent=False)
            await pause(_RECOVER)

    return inject


def slow_wire(seconds: float) -> Fault:
    """Let every answer of Postgres come late."""

    async def inject(run: Run) -> None:
        wire = run.world.wire
        assert wire is not None
        wire.delay = seconds
        run.count(f"every answer of Postgres {seconds * 1000:g} ms late")
        await pause(run.left - 2)
        wire.mend()

    return inject


def redis_away(seconds: float) -> Fault:
    """Kill the Redis, and start it again later, empty."""

    async def inject(run: Run) -> None:
        valkey = run.world.valkey
        assert valkey is not None
        while run.left > seconds:
            valkey.stop()
            run.count(f"kill -9 of Redis, away {seconds:g} s")
            await run.recovers()
            await pause(seconds)
            await asyncio.to_thread(valkey.start)
            await pause(_RECOVER)

    return inject


def redis_frozen(*spells: float) -> Fault:
    """Let Redis stand still for each spell."""

    async def inject(run: Run) -> None:
        valkey = run.world.valkey
        assert valkey is not None
        for seconds in spells:
            valkey.hang()
            run.count(f"SIGSTOP of Redis for {seconds:g} s")
            await run.recovers()
            await pause(seconds)
            valkey.go_on()
            await pause(_RECOVER)

    return inject


async def redis_flushed(run: Run) -> None:
    """Empty Redis every second."""
    valkey = run.world.valkey
    assert valkey is not None
    while run.left > 1:
        await asyncio.to_thread(valkey.run, "FLUSHALL")
        run.count("FLUSHALL of Redis")
        await pause(1)


async def redis_full(run: Run) -> None:
    """Leave Redis no room for anything new."""
    valkey = run.world.valkey
    assert valkey is not None
    await asyncio.to_thread(valkey.run, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    await asyncio.to_thread(valkey.run, "CONFIG", "SET", "maxmemory", "1mb")
    run.count("Redis full")
    await run.recovers()


def kill_provider(seconds: float) -> Fault:
    """Kill the provider with all its answers, and start it again later."""

    async def inject(run: Run) -> None:
        while run.left > seconds + 4:
            await run.world.provider.kill()
            run.count("kill -9 of the provider")
            await pause(seconds)
            await run.world.provider.start()
            await pause(6)

    return inject


def bad_proxy(*, swallow: float = 0.0, repeat: float = 0.0, blind: bool = False) -> Fault:
    """Let the balancer swallow answers, repeat requests by itself, or pass no close on."""

    async def inject(run: Run) -> None:
        balancer = run.world.balancer
        balancer.swallow, balancer.repeat, balancer.blind = swallow, repeat, blind
        await pause(run.left - 2)
        balancer.swallow, balancer.repeat = 0.0, 0.0
        run.count("answer swallowed by the balancer", balancer.swallowed)
        run.count("request repeated by the balancer", balancer.repeated)
        if blind:
            run.count("closes never passed on")
        for fault in [fault for fault, count in run.faults.items() if not count]:
            del run.faults[fault]

    return inject


def jump_clock(whose: str, *steps: str) -> Fault:
    """Let a clock jump by libfaketime (clocks.py): each step says how many seconds it is off."""

    async def inject(run: Run) -> None:
        while run.left > 8:
            for step in steps:
                clock_file(run.world.place).write_text(f"{step}\n", encoding="utf-8")
                run.count(f"clock of {whose} set {step} s off")
                await run.recovers()
                await pause(6)

    return inject


def close_lid(seconds: float) -> Fault:
    """Let the programs and their database stand still, as in a laptop that sleeps; the provider goes on."""

    async def inject(run: Run) -> None:
        while run.left > seconds:
            async with run.outage():
                run.world.store.freeze()
                for replica in run.world.replicas:
                    replica.freeze()
                run.count(f"lid closed for {seconds:g} s")
                await pause(seconds)
                run.world.store.thaw()
                for replica in run.world.replicas:
                    replica.thaw()
            await pause(_RECOVER)

    return inject


async def live_a_day(run: Run) -> None:
    """Kill twenty replicas and Postgres five times while clients talk, over a midnight and over the end of a month."""
    kills = [_kill_a_replica] * 20 + [_kill_postgres] * 5
    run.chance.shuffle(kills)
    third = len(kills) // 3
    events: list[Fault] = [
        *kills[:third],
        _pass_midnight,
        *kills[third : 2 * third],
        _end_the_month,
        *kills[2 * third :],
    ]
    await limit_the_day(run)
    assert run.load.habit.enough is not None
    for number, event in enumerate(events, start=1):
        while run.load.accepted < run.load.habit.enough * number / (len(events) + 1) and not run.load.is_over:
            await pause(0.1)
        await event(run)


async def _kill_a_replica(run: Run) -> None:
    replica = run.chance.choice(run.world.replicas)
    await replica.kill()
    run.count("kill -9 of a replica")
    await replica.start()


async def _kill_postgres(run: Run) -> None:
    async with run.outage():
        await run.world.store.kill()
        run.count("SIGKILL of Postgres, away 2 s")
        await pause(2)
        await run.world.store.start()


async def _pass_midnight(run: Run) -> None:
    today = run.world.clock.today()
    await _set_before(run, datetime.combine(today + timedelta(days=1), time(), UTC))
    run.count("midnight")


async def _end_the_month(run: Run) -> None:
    today = run.world.clock.today()
    await _set_before(run, datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC))
    run.count("end of a month")


async def _set_before(run: Run, moment: datetime) -> None:
    """Set the clock of Postgres to a few seconds before a moment, and let them pass."""
    # Nobody settles turns of others before having seen a clock that jumped for one lease, as after an outage.
    async with run.outage():
        run.world.clock.put_ahead(round(moment.timestamp() - 4 - now()))
    await pause(8)
