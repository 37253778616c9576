"""Conversations that go on whatever breaks: what a call does not answer is asked again, as a client library would."""

import asyncio
import math
import random
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chaos.clients import BareClient, Client, Era, RefusedError, SdkClient
from chaos.evidence import CallTime, Left, Message, Refusal, Told, marked
from chaos.findings import FINAL
from chaos.timing import now, pause
from chaos.world import AGENT, World

# How long a call may take beyond what it asked to wait, before its client gives it up.
_OVER_WAIT = 45.0


def short(chance: random.Random) -> str:
    """Write an answer of up to four seconds."""
    return f"[[pieces={chance.randint(4, 16)} pace=0.{chance.randint(5, 25):02d}]]"


def long(chance: random.Random) -> str:
    """Write an answer of one to eight seconds."""
    return f"[[pieces={chance.randint(10, 40)} pace=0.{chance.randint(10, 20)}]]"


@dataclass(frozen=True, kw_only=True)
class Habit:
    """How clients behave: `leaves` and `cancels` are how often, `hasty` is when a first call is given up, by chance."""

    script: Callable[[random.Random], str] = short
    keyed: bool = True
    in_session: int = 4  # messages in one session; 0 names no session
    mixed: bool = False  # by chance, a message has no key, and a conversation no session
    wait: int = 8
    patience: float = 90.0
    leaves: float = 0.0
    cancels: float = 0.0
    hasty: tuple[float, ...] = ()
    at_once: bool = False  # asks again at once, and with the SDK's client alone
    idle: float = 0.0  # seconds between two messages
    bare: bool = False  # bare HTTP alone, which costs the machine less
    enough: int | None = None  # turns, after which the load is over however much of its time is left


USUAL = Habit()


@dataclass
class Load:
    """A number of conversations at once, for a time."""

    world: World
    habit: Habit
    chance: random.Random
    clients: int
    seconds: float
    messages: list[Message] = field(default_factory=list[Message])
    accepted: int = 0
    left: int = 0
    cancelled: int = 0
    end: float = math.inf

    async def run(self) -> None:
        """Talk until the time is over and every conversation has the answer to its last message."""
        self.end = now() + self.seconds
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._converse(number))

    @property
    def is_over(self) -> bool:
        """Whether no further message is sent."""
        return now() >= self.end or (self.habit.enough is not None and self.accepted >= self.habit.enough)

    async def _converse(self, number: int) -> None:
        client = self._client(number)
        await pause(self.chance.random() * min(2.0, self.seconds / 4))
        while not self.is_over:
            session: str | None = None
            for position in range(self._length()):
                if self.is_over:
                    return
                message = self.new_message(client=number, number=position, session_id=session)
                await self.send(client, message, self.habit.script(self.chance))
                if message.last is None or message.last.status not in FINAL:
                    await pause(self.chance.random() * 2 * message.is_over_budget)
                    break
                session = message.last.session_id
                await pause(self.habit.idle * 2 * self.chance.random())

    def _length(self) -> int:
        """Choose how many messages a conversation has: one names no session."""
        is_alone = self.habit.mixed and self.chance.random() < 0.5
        return 1 if is_alone else max(1, self.habit.in_session)

    def _client(self, number: int) -> Client:
        eras: tuple[Era, ...] = ("2026-07-28", "2025-11-25")
        era = eras[number % 2]
        if self.world.residents is not None:
            return self.world.residents.client(era)
        if self.habit.at_once or (not self.habit.bare and number % 8 >= 6):
            return SdkClient(self.world.balancer.url, era)
        people = self.world.people
        token = people[number % len(people)].token if people else None
        return BareClient(self.world.http, self.world.balancer.url, era, token)

    def new_message(self, *, client: int = -1, number: int = 0, session_id: str | None = None) -> Message:
        """Begin the record of a message."""
        message = Message(marker=uuid.uuid4().hex, client=client, number=number, session_id=session_id)
        self.messages.append(message)
        return message

    async def send(self, client: Client, message: Message, words: str) -> None:
        """Send a message, and ask again until it has an end or patience does."""
        arguments: dict[str, object] = {
            "message": marked(message.marker, words),
            "agent": AGENT,
            "wait_seconds": self.habit.wait,
        }
        if message.session_id is not None:
            arguments["session_id"] = message.session_id
        if self.habit.keyed and not (self.habit.mixed and self.chance.random() < 0.5):
            arguments["idempotency_key"] = f"k-{message.marker}"
        give_up = now() + self.habit.patience
        may_cancel = self.chance.random() < self.habit.cancels
        while now() < give_up:
            told = message.last
            if message.is_over_budget or (told is not None and told.status in FINAL):
                return
            if told is not None and may_cancel:
                may_cancel = False
                await self._cancel(client, told)
            tool, given = ("chat", arguments) if told is None else ("get_turn", self._waiting_for(told))
            await self._attempt(client, message, tool, given)

    async def _attempt(self, client: Client, message: Message, tool: str, given: Mapping[str, object]) -> None:
        within = self._within(message)
        try:
            first = not message.told
            await tell(client, message, tool, given, within)
            self.accepted += first
        except RefusedError as exc:
            if exc.kind == "timeout" and within < self.habit.wait:
                self.left += 1
            else:
                message.refusals.append(Refusal(at=now(), kind=exc.kind, text=exc.text, retry_after=exc.retry_after))
            if not self.habit.at_once and not message.is_over_budget:
                await pause((exc.retry_after or 0.3) + self.chance.random() * 0.7)

    def _within(self, message: Message) -> float:
        first = not message.told and not message.refusals
        if self.habit.hasty and first and not message.calls:
            return self.chance.choice(self.habit.hasty)
        if self.chance.random() < self.habit.leaves:
            return 0.2 + self.chance.random() * 1.5
        return self.habit.wait + _OVER_WAIT

    def _waiting_for(self, told: Told) -> dict[str, object]:
        return {"turn_id": told.turn_id, "wait_seconds": self.habit.wait}

    async def _cancel(self, client: Client, told: Told) -> None:
        self.cancelled += 1
        with suppress(RefusedError):
            await client.call("cancel_turn", {"turn_id": told.turn_id}, _OVER_WAIT)


async def tell(
    client: Client, message: Message, tool: str, arguments: Mapping[str, object], within: float = 60.0
) -> Told:
    """Call a tool, and record what it tells about the message's turn and how long it took.

    Raises:
        RefusedError: it told nothing.
    """
    wait = float(str(arguments.get("wait_seconds", 0)))
    client.began = client.ended = now()
    try:
        turn = await client.call(tool, arguments, within)
    finally:
        message.calls.append(CallTime(wait=wait, took=client.ended - client.began))
    told = Told(
        at=now(),
        turn_id=str(turn["turn_id"]),
        session_id=str(turn["session_id"]),
        status=str(turn["status"]),
        reply=str(turn["reply"]),
        saved=bool(turn["saved"]),
        words=str(turn["words"]),
        bill=_bill(turn),
        left=_left(turn.get("budget")),  # which the version before does not tell
    )
    message.told.append(told)
    return told


def _bill(turn: Mapping[str, Any]) -> tuple[int, int, int] | None:
    usage, cost = turn["usage"], turn["cost_usd"]
    return None if cost is None else (usage["input_tokens"], usage["output_tokens"], round(cost * 1_000_000_000))


def _left(budget: Mapping[str, Any] | None) -> Left | None:
    if budget is None:
        return None
    nanos = round(budget["left_usd"] * 1_000_000_000)
    return Left(nanos=nanos, **{name: budget[name] for name in ("scope", "period", "hard", "renews_at")})
