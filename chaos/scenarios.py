"""The scenarios, by name: what is broken, and under which load."""

import signal
from collections.abc import Mapping

from chaos.books import somebody_refused
from chaos.invariants import all_answered, never_silent, refused_by_status, waits_bounded
from chaos.load import Habit, long
from chaos.postgres import can_mount
from chaos.running import Scenario, nothing, together
from chaos.world import Shape

from chaos import clocks, faults, limits, moments, stdio, versions

_LONG = Habit(script=long)
_HONOURS_RETRY_AFTER = Habit(script=long, bare=True)  # as the SDK's clients do not
_PATIENT = Habit(script=long, patience=150)
# Bare HTTP, a key with every message, no sessions: as many clients as the machine can carry.
_CROWD = Habit(bare=True, in_session=0, wait=20, patience=120)
_NO_KEY = Habit(script=long, keyed=False)
_NO_KEY_NO_SESSION = Habit(script=long, keyed=False, in_session=0)
_GIVES_UP = Habit(script=lambda _: "[[pieces=30 pace=0.2]]", keyed=False, in_session=0, hasty=(0.25, 2.0), at_once=True)
_TWO, _ONE = Shape(replicas=2), Shape(replicas=1)
_FULL_DISK = Shape(small_disk=True, postgres_settings=("min_wal_size=32MB", "max_wal_size=48MB", "wal_recycle=off"))
_FEW_CONNECTIONS = Shape(postgres_settings=("max_connections=14",), env={"AGENTAPI_POOL_SIZE": "20"})
# A third of the answers is sound: a scenario in which nothing is answered tries nothing.
_SOUND = ("",) * 4
_FAILURES = ("cut", "hang", "stall", "lie", "status=500", "status=429", "nonsense", "empty")


def _previous_beside_ours() -> Shape:
    return Shape(sources={0: versions.check_out()})


def _clock_of_replica() -> Shape:
    return Shape(env_of={0: clocks.jumping()})


def _clock_of_postgres() -> Shape:
    return Shape(replicas=2, postgres_env=clocks.jumping())


def _five_organizations() -> Shape:
    return Shape(organizations=5, people=50, postgres_env=clocks.jumping())


ALL: Mapping[str, Scenario] = {
    "baseline": Scenario(about="nothing", fault=nothing, rules=(all_answered,)),
    "kill9": Scenario(
        about="a replica killed every few seconds", fault=faults.kill_replicas(), habit=_LONG, seconds=60
    ),
    "kill9_nokey": Scenario(
        about="a replica killed every few seconds, clients without a key, in sessions",
        fault=faults.kill_replicas(),
        habit=_NO_KEY,
    ),
    "kill9_nokey_sessionless": Scenario(
        about="a replica killed every few seconds, clients with neither key nor session",
        fault=faults.kill_replicas(),
        habit=_NO_KEY_NO_SESSION,
    ),
    "key_after_crash": Scenario(
        about="a replica killed in mid-turn, and its callers do what they are told",
        fault=moments.key_after_crash,
        shape=_TWO,
        seconds=8,
        clients=0,
    ),
    "rolling": Scenario(
        about="every replica restarted in turn by SIGTERM, which the balancer does not know of",
        fault=faults.stop_replicas(announced=False),
        habit=_HONOURS_RETRY_AFTER,
        seconds=60,
        rules=(refused_by_status,),
    ),
    "rolling_announced": Scenario(
        about="every replica taken out of the balancer, and restarted by SIGTERM",
        fault=faults.stop_replicas(announced=True),
        habit=_HONOURS_RETRY_AFTER,
        seconds=60,
        rules=(refused_by_status,),
    ),
    "owner_asleep": Scenario(
        about="a replica that stands still for longer than its leases, and comes back",
        fault=faults.freeze_replica(40),
        habit=_LONG,
        seconds=60,
    ),
    "pg_kill9": Scenario(about="Postgres killed, away 2 s", fault=faults.postgres_away(2), habit=_LONG),
    "pg_restart": Scenario(
        about="Postgres shut down, away 1 s", fault=faults.postgres_away(1, sign=signal.SIGINT), habit=_LONG
    ),
    "pg_away10": Scenario(about="Postgres killed, away 10 s", fault=faults.postgres_away(10), habit=_LONG, seconds=45),
    "pg_away20": Scenario(
        about="Postgres killed, away 20 s", fault=faults.postgres_away(20, gap=8), habit=_LONG, seconds=60
    ),
    "pg_away60": Scenario(
        about="Postgres killed, away 60 s", fault=faults.postgres_away(60, times=1), habit=_PATIENT, seconds=80
    ),
    "back_and_read": Scenario(
        about="a turn that ends while Postgres is away for 20 s, read first of all",
        fault=moments.back_and_read,
        shape=_TWO,
        seconds=60,
        clients=0,
    ),
    "sigterm_pg_away": Scenario(
        about="the owner of an answered turn stopped while Postgres is away",
        fault=moments.sigterm_pg_away,
        shape=_TWO,
        seconds=5,
        clients=0,
    ),
    "pg_hang20": Scenario(
        about="Postgres frozen for 20 s, twice",
        fault=faults.postgres_frozen(20, 20),
        habit=_PATIENT,
        seconds=60,
        rules=(waits_bounded,),
    ),
    "pg_hang60": Scenario(
        about="Postgres frozen for 60 s",
        fault=faults.postgres_frozen(60),
        habit=_PATIENT,
        seconds=80,
        rules=(waits_bounded,),
    ),
    "terminate": Scenario(about="half of all connections ended at random", fault=faults.terminate_backends, seconds=30),
    "few_connections": Scenario(
        about="14 connections for three pools of 20", fault=nothing, shape=_FEW_CONNECTIONS, seconds=30
    ),
    "lock": Scenario(about="the table of sessions locked for 5 and 12 s", fault=faults.lock_sessions(5, 12)),
    "rowlock": Scenario(
        about="one session locked, whose turn ends meanwhile, and ten messages to it",
        fault=moments.rowlock,
        shape=_ONE,
        seconds=25,
        clients=0,
        rules=(waits_bounded,),
    ),
    "flood": Scenario(
        about="twenty answers of 20,000 pieces at full speed",
        fault=moments.flood,
        shape=_ONE,
        seconds=25,
        clients=0,
    ),
    "disk_full": Scenario(
        about="no room for Postgres, 8 s, three times",
        fault=faults.fill_disk(8, 3),
        shape=_FULL_DISK,
        habit=_LONG,
        seconds=55,
        obstacle=can_mount,
    ),
    "commit_cut": Scenario(
        about="the wire to Postgres cut before a commit arrives, or before its answer does",
        fault=faults.cut_commits(before=0.02, after=0.04),
        shape=Shape(wired=True),
        seconds=30,
    ),
    "commit_cut_nokey": Scenario(
        about="as commit_cut, clients without a key",
        fault=faults.cut_commits(before=0.02, after=0.04),
        shape=Shape(wired=True),
        habit=Habit(keyed=False),
        seconds=30,
    ),
    "wire_silent": Scenario(
        about="the wire to Postgres silent for 8 and for 25 s",
        fault=faults.silence_wire(8, 25),
        shape=Shape(wired=True),
        habit=_PATIENT,
        seconds=50,
        rules=(waits_bounded,),
    ),
    "wire_slow": Scenario(
        about="every answer of Postgres 150 ms late", fault=faults.slow_wire(0.15), shape=Shape(wired=True), seconds=25
    ),
    "redis_kill": Scenario(about="Redis killed, away 3 s", fault=faults.redis_away(3)),
    "redis_flush": Scenario(about="Redis emptied every second", fault=faults.redis_flushed, seconds=25),
    "redis_hang": Scenario(about="Redis frozen for 5 and for 15 s", fault=faults.redis_frozen(5, 15)),
    "redis_full": Scenario(about="no room in Redis", fault=faults.redis_full, seconds=20),
    "provider": Scenario(
        about="a provider that is killed, cuts, hangs, stalls, lies, refuses and talks nonsense",
        fault=faults.kill_provider(1.5),
        habit=Habit(
            script=lambda chance: f"[[pieces=8 pace=0.05 {chance.choice(_FAILURES + _SOUND)}]]", wait=4, cancels=0.5
        ),
    ),
    "vanish": Scenario(
        about="a third of all calls left in the middle, a fifth of all turns cancelled",
        fault=nothing,
        habit=Habit(script=long, leaves=0.35, cancels=0.2, wait=3, bare=True),
        seconds=30,
    ),
    "vanish_nokey": Scenario(
        about="a third of all calls left in the middle, without a key, in sessions",
        fault=nothing,
        habit=Habit(script=long, leaves=0.35, keyed=False, wait=6, bare=True),
        seconds=30,
    ),
    "vanish_nokey_sessionless": Scenario(
        about="a third of all calls left in the middle, with neither key nor session",
        fault=nothing,
        habit=Habit(script=long, leaves=0.35, keyed=False, in_session=0, wait=6, bare=True),
        seconds=30,
    ),
    "retry_at_once": Scenario(
        about="clients of the SDK that give up after 0.25 or 2 s and ask again at once, without a key",
        fault=nothing,
        habit=_GIVES_UP,
        seconds=20,
        clients=6,
        rules=(all_answered,),
    ),
    "blind_proxy": Scenario(
        about="clients on bare HTTP that give up after 2 s and ask again, behind a balancer that passes no close on",
        fault=faults.bad_proxy(blind=True),
        habit=Habit(script=_GIVES_UP.script, keyed=False, in_session=0, hasty=(2.0,), bare=True),
        seconds=20,
        clients=6,
        rules=(all_answered,),
    ),
    "swallowed": Scenario(
        about="a quarter of all answers swallowed by the balancer; clients have keys",
        fault=faults.bad_proxy(swallow=0.25),
        habit=Habit(bare=True),
        seconds=30,
    ),
    "repeated": Scenario(
        about="a third of all requests repeated by the balancer; clients have no keys",
        fault=faults.bad_proxy(repeat=0.33),
        habit=Habit(script=long, keyed=False, in_session=0, bare=True),
        seconds=30,
    ),
    "ten_at_once": Scenario(about="ten identical calls at once", fault=moments.ten_at_once, seconds=30, clients=2),
    "overload_kill": Scenario(
        about="each replica killed once under more clients than the machine can serve",
        fault=moments.kill_under_load,
        shape=_TWO,
        habit=_CROWD,
        clients=450,
    ),
    "storm": Scenario(
        about="replicas, Postgres and Redis killed at the same time, a tenth of all calls left in the middle",
        fault=together(faults.kill_replicas(gap=8), faults.postgres_away(3, gap=10), faults.redis_away(3)),
        habit=Habit(script=long, leaves=0.1),
        seconds=60,
    ),
    "hot_budget": Scenario(
        about="a hard budget that is used up and raised again and again, while replicas and Postgres are killed",
        fault=limits.hot_budget(
            4, 3, faults.kill_replicas(gap=6), faults.postgres_away(2, gap=8), faults.redis_flushed
        ),
        rules=(somebody_refused,),
    ),
    "clock_replica": Scenario(
        about="the clock of a replica an hour ahead, right, an hour behind, right",
        fault=faults.jump_clock("a replica", "+3600", "+0", "-3600", "+0"),
        shape=_clock_of_replica,
        seconds=60,
        obstacle=clocks.cannot_jump,
    ),
    "clock_postgres": Scenario(
        about="the clock of Postgres an hour ahead, and back",
        fault=faults.jump_clock("Postgres", "+3600", "+0"),
        shape=_clock_of_postgres,
        habit=_LONG,
        obstacle=clocks.cannot_jump,
    ),
    "laptop_asleep": Scenario(
        about="program and embedded Postgres stand still for 20 s in mid-turn",
        fault=faults.close_lid(20),
        shape=Shape(replicas=1, embedded=True),
        habit=_PATIENT,
        seconds=55,
        clients=3,
    ),
    "embedded_kill9": Scenario(
        about="the embedded Postgres killed under two programs on one home",
        fault=faults.postgres_away(0.5, gap=4),
        shape=Shape(replicas=2, embedded=True),
        habit=_LONG,
        clients=6,
    ),
    "home_kill9": Scenario(
        about="one of three programs on one home, with its embedded Postgres, killed every few seconds",
        fault=faults.kill_replicas(gap=6),
        shape=Shape(embedded=True),
        habit=_LONG,
        clients=6,
    ),
    "resident": Scenario(
        about="the server that stdio clients share killed, stopped and frozen in mid-turn, and bridges killed",
        fault=together(stdio.break_servers, stdio.kill_bridges),
        shape=Shape(stdio=True),
        habit=Habit(script=long, mixed=True),
        seconds=60,
        clients=6,
        rules=(never_silent,),
        afterwards=stdio.everything_ends,
    ),
    "two_versions": Scenario(
        about="a replica of the version before, killed and restarted with the others",
        fault=faults.kill_replicas(gap=8),
        shape=_previous_beside_ours,
        habit=_LONG,
        seconds=60,
        obstacle=versions.cannot_check_out,
    ),
    "two_configurations": Scenario(
        about="replicas of different configuration, which they should notice",
        fault=moments.two_configurations,
        shape=Shape(replicas=2, models={0: "one", 1: "other"}),
        seconds=10,
        clients=2,
    ),
}
# By name only: an hour, and some ten minutes.
BY_NAME: Mapping[str, Scenario] = {
    "day": Scenario(
        about="20 kills of replicas, 5 of Postgres, two midnights, 20,000 turns of 50 people with budgets",
        fault=faults.live_a_day,
        shape=_five_organizations,
        habit=Habit(script=lambda _: "[[pieces=3]]", bare=True, enough=20_000, patience=150),
        seconds=3600,
        clients=50,
        rules=(somebody_refused,),
        afterwards=limits.ask_usage,
        obstacle=clocks.cannot_jump,
    ),
    "soak": Scenario(
        about="nothing, for an hour; memory and descriptors stay flat",
        fault=moments.watch_resources,
        habit=Habit(idle=2.0),
        seconds=3600,
        clients=5,
    ),
}
# Seven in their smallest form, for CI: three minutes.
SHORT: Mapping[str, tuple[float, int]] = {
    "back_and_read": (5, 0),
    "commit_cut": (8, 8),
    "hot_budget": (12, 6),
    "key_after_crash": (5, 0),
    "kill9": (12, 6),
    "resident": (12, 4),
    "rowlock": (8, 0),
}
