"""Jobs of the suite for tasks: each is a real turn of the product, whose agent does what the suite wants to see."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import cast
from uuid import uuid4

from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    ElicitRequest,
    ElicitResult,
    ErrorData,
    InputRequiredResult,
)
from pydantic import BaseModel
from typing_extensions import override

from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.core.conversations.models import Task
from agentapi_mcp.edges.mcp.callers import Caller, Context
from agentapi_mcp.edges.mcp.tasks.messages import declares_tasks, require_tasks
from agentapi_mcp.edges.mcp.tasks.views import TurnView, TurnViews
from agentapi_mcp.edges.mcp.tools.turn_results import task_message, turn_result
from agentapi_mcp.testing.http import Answer, Exchange
from tests.conformance.asking import form
from tests.conformance.content import answer
from tests.support.peers.openai import OpenAIPeer

Chat = Callable[[Context, CallToolRequestParams], Awaitable[BaseModel]]
_WAIT = 25


@dataclass
class Job:
    """What an agent is to do: take so long, ask these questions, and say this, or break the protocol."""

    says: str
    seconds: float = 0
    questions: tuple[str, ...] = ()
    breaks_protocol: bool = False
    answers: dict[str, ElicitResult] = field(default_factory=dict[str, ElicitResult])
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def open(self) -> list[str]:
        """The questions that nobody has answered."""
        return [key for key in self.questions if key not in self.answers]

    async def work(self) -> None:
        """Take the time, and wait for the answers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await asyncio.Event().wait()
        while self.open:
            self.answered.clear()
            await self.answered.wait()


class Jobs:
    """The jobs of all replicas, by the messages that agents get."""

    def __init__(self) -> None:
        self.by_message: dict[str, Job] = {}

    def peer(self) -> OpenAIPeer:
        """Make an agent for a replica."""
        return _Worker(self)

    def views(self) -> TurnViews:
        """Make views of the turns of these jobs."""
        return _Views(self)

    async def call(self, chat: Chat, context: Context, params: CallToolRequestParams) -> BaseModel:
        """Call a tool of the suite."""
        arguments = params.arguments or {}
        match params.name:
            case "greet":
                return answer(f"Hello, {arguments['name']}!")
            case "slow_compute":
                job = Job("[[echo]]", seconds=float(arguments["seconds"]))
            case "failing_job":
                require_tasks(context)  # it cannot be answered otherwise
                job = Job("[[e400]]", seconds=1)
            case "protocol_error_job":
                job = Job("[[echo]]", seconds=1, breaks_protocol=True)
            case "confirm_delete":
                job = Job("[[echo]]", questions=("confirm",))
            case "multi_input":
                job = Job("[[echo]]", questions=("first", "second"))
            case _:
                said = cast("ElicitResult | None", (params.input_responses or {}).get("user_name"))
                if said is None:
                    return InputRequiredResult(input_requests={"user_name": _question("user_name")})
                job = Job(f"{(said.content or {})['name']} [[echo]]", seconds=1)
        message = f"job {uuid4()} {job.says}"
        self.by_message[message] = job
        # For whoever takes tasks, as short a wait as there is.
        asked = {"agent": "droid", "message": message, "wait_seconds": 0 if declares_tasks(context) else _WAIT}
        return await chat(context, CallToolRequestParams(name="chat", arguments=asked))


class _Worker(OpenAIPeer):
    """An agent that does its job before it answers."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self._jobs = jobs

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        body = str(exchange.json) if exchange.path.endswith("/chat/completions") else ""
        job = next((job for message, job in self._jobs.by_message.items() if message in body), None)
        if job is not None:
            await first_of(job.work(), exchange.gone.wait())
        await super().answer(exchange, answer)


class _Views(TurnViews):
    def __init__(self, jobs: Jobs) -> None:
        super().__init__(turn_result, task_message)
        self._jobs = jobs

    @override
    async def view(self, caller: Caller, task: Task) -> TurnView:
        view, job = await super().view(caller, task), self._jobs.by_message.get(task.turn.message)
        if job is None:
            return view
        if task.turn.status.is_final:
            return (
                replace(view, outcome=ErrorData(code=INTERNAL_ERROR, message="boom")) if job.breaks_protocol else view
            )
        return replace(view, questions={key: _question(key) for key in job.open})

    @override
    async def answer(self, caller: Caller, task: Task, key: str, answer: ElicitResult) -> None:
        job = self._jobs.by_message[task.turn.message]
        job.answers[key] = answer
        job.answered.set()


def _question(key: str) -> ElicitRequest:
    return ElicitRequest.model_validate(
        form("What does the agent want to know?", "name" if key == "user_name" else "confirm")
    )
