"""How often the progress of a turn is reported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from typing_extensions import override

from agentapi_mcp.base.ids import TurnId, new_id
from agentapi_mcp.core.conversations.models import TurnEvent
from agentapi_mcp.core.conversations.turn_follower import REPORT_EVERY, FollowedTurn, Pacer, Progress, ProgressReport
from tests.support.clocks import ManualClock

_TURN = TurnId(new_id())


@dataclass
class Answer(FollowedTurn):
    """An answer that the test writes."""

    text: str = ""
    ended: bool = False
    waits: list[timedelta] = field(default_factory=list[timedelta])

    @property
    @override
    def has_ended(self) -> bool:
        return self.ended

    @override
    def progress(self, elapsed: timedelta) -> Progress:
        return Progress(_TURN, self.text, elapsed, None)

    @override
    async def changed(self, within: timedelta) -> Sequence[TurnEvent]:
        self.waits.append(within)
        self.ended = True
        return ()


class Scene:
    """A pacer, the answer whose progress it reports, and what was reported: characters and elapsed seconds."""

    def __init__(self, *, every: timedelta = REPORT_EVERY, at_once: bool = False) -> None:
        self.clock = ManualClock(seconds=1000)
        self.answer = Answer()
        self.reported: list[tuple[int, float]] = []
        report = ProgressReport(self.report, every, at_once=at_once)
        self.pacer = Pacer(self.clock, report, self.clock.monotonic())

    async def report(self, progress: Progress) -> None:
        """Note what is reported."""
        self.reported.append((len(progress.text), progress.elapsed.total_seconds()))

    async def after(self, seconds: float, more: str = "") -> list[tuple[int, float]]:
        """Let time pass and text come; return what is reported then."""
        self.clock.advance(timedelta(seconds=seconds))
        self.answer.text += more
        self.reported.clear()
        await self.pacer.report(self.answer)
        return list(self.reported)


async def test_the_first_text_is_reported_at_once() -> None:
    scene = Scene()
    assert await scene.after(0.1) == []
    assert await scene.after(0.1, "a") == [(1, 0.2)]


async def test_more_text_is_reported_every_half_second() -> None:
    scene = Scene()
    await scene.after(0, "a")
    assert await scene.after(0.4, "b") == []
    assert await scene.after(0.1) == [(2, 0.5)]
    assert await scene.after(0.5, "c") == [(3, 1.0)]


async def test_silence_is_reported_every_ten_seconds() -> None:
    scene = Scene()
    assert await scene.after(9.9) == []
    assert await scene.after(0.1) == [(0, 10.0)]
    await scene.after(1, "a")
    assert await scene.after(9.9) == []
    assert await scene.after(0.1) == [(1, 21.0)]


async def test_the_end_is_no_progress() -> None:
    scene = Scene()
    scene.answer.ended = True
    assert await scene.after(60, "all") == []


async def test_what_came_before_anybody_followed_is_reported_at_once() -> None:
    scene = Scene()
    scene.answer.text = "ab"
    await scene.pacer.follow(scene.answer, until=1060)
    assert (scene.reported, scene.answer.waits) == ([(2, 0.0)], [timedelta(seconds=0.5)])


async def test_nobody_is_told_who_did_not_ask() -> None:
    clock, answer = ManualClock(), Answer("a")
    await Pacer(clock, None, 0.0).report(answer)
    assert answer.text == "a"


async def test_more_text_is_reported_as_often_as_asked() -> None:
    scene = Scene(every=timedelta(seconds=0.25))
    await scene.after(0, "a")
    assert await scene.after(0.125, "b") == []
    assert await scene.after(0.125) == [(2, 0.25)]


async def test_a_turn_without_text_is_reported_at_once_to_who_asked_for_that() -> None:
    scene = Scene(at_once=True)
    assert await scene.after(0) == [(0, 0.0)]
    assert await scene.after(0.1) == []
    assert await scene.after(0.1, "a") == [(1, 0.2)]
